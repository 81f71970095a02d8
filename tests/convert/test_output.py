import pytest
import torch

from mindpress.convert.output import TensorFiles, one_thread_each
from mindpress.errors import ResourceError


def test_files_hold_the_rows_in_order(tmp_path):
    tensors = {f"{n}": torch.randn(n, 3 * n + 1) for n in (40, 1, 7, 64, 3)}
    with TensorFiles(tmp_path) as files:
        for name, tensor in tensors.items():
            files.write(f"{name}.plain", tensor)
            files.write(f"{name}.turned", tensor.t())
    for name, tensor in tensors.items():
        assert (tmp_path / f"{name}.plain").read_bytes() == tensor.numpy().tobytes()
        assert (tmp_path / f"{name}.turned").read_bytes() == tensor.t().numpy().tobytes()


def test_an_empty_tensor_is_an_empty_file(tmp_path):
    with TensorFiles(tmp_path) as files:
        files.write("empty", torch.empty(0, 5))
    assert (tmp_path / "empty").read_bytes() == b""


def test_the_last_file_that_cannot_be_written_is_told_too(tmp_path):
    with pytest.raises(ResourceError, match="missing"), TensorFiles(tmp_path / "missing") as files:
        files.write("name", torch.zeros(3))


def fail_within(context, work):
    with context as entered:
        work(entered)
        raise KeyError


def test_an_error_of_the_caller_is_not_hidden_by_one_of_a_writer(tmp_path):
    with pytest.raises(KeyError):
        fail_within(TensorFiles(tmp_path / "missing"), lambda f: f.write("name", torch.zeros(3)))


def test_the_number_of_threads_comes_back():
    before, within = torch.get_num_threads(), []
    with pytest.raises(KeyError):
        fail_within(one_thread_each(), lambda _: within.append(torch.get_num_threads()))
    assert within == [1]
    assert torch.get_num_threads() == before
