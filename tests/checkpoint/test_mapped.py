import json

import pytest
import torch
from safetensors.torch import save_file

from mindpress.checkpoint.mapped import MappedCheckpoint
from mindpress.checkpoint.reader import INDEX, open_checkpoint

TENSORS = {
    "half": torch.randn(5, 7).half(),
    "brain": torch.randn(3).bfloat16(),
    "single": torch.randn(2, 3, 4),
    "words": torch.randint(-(2**31), 2**31 - 1, (4, 9), dtype=torch.int32),
    "empty": torch.empty(0, 4),
    "scalar": torch.tensor(1.5),
}


@pytest.fixture
def folder(tmp_path):
    names = list(TENSORS)
    weight_map = {}
    for number, chosen in enumerate((names[:3], names[3:])):
        file = f"model-{number}.safetensors"
        save_file({name: TENSORS[name] for name in chosen}, tmp_path / file)
        weight_map |= dict.fromkeys(chosen, file)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return tmp_path


def same(checkpoint):
    return all(
        checkpoint.tensor(name).dtype == tensor.dtype
        and checkpoint.tensor(name).shape == tensor.shape
        and torch.equal(checkpoint.tensor(name), tensor)
        for name, tensor in TENSORS.items()
    )


def test_tensors_are_those_of_the_file(folder):
    assert same(MappedCheckpoint(folder))
    assert MappedCheckpoint(folder).tensors == open_checkpoint(folder).tensors


def test_a_released_tensor_is_read_again(folder):
    checkpoint = MappedCheckpoint(folder)
    before = checkpoint.tensor("half")
    assert same(checkpoint)
    checkpoint.release()
    assert torch.equal(before, TENSORS["half"])
    assert same(checkpoint)


def test_a_header_of_odd_length_is_no_obstacle(tmp_path):
    data = TENSORS["half"].numpy().tobytes()
    entry = {"dtype": "F16", "shape": [5, 7], "data_offsets": [0, len(data)]}
    header = json.dumps({"half": entry}).encode()
    header += b" " * (1 - len(header) % 2)
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    assert len(header) % 2 == 1
    assert torch.equal(MappedCheckpoint(tmp_path).tensor("half"), TENSORS["half"])
