"""Statistics on disk: what is saved is read back, and what is wrong with a file is said."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mindpress.calib.statistics_file import load_statistics, save_statistics
from mindpress.calib.statistics_header import StatisticsHeader
from mindpress.errors import ConfigError, InputError

HEADER = StatisticsHeader(
    model="org/model",
    signature="2x2x32:abcd",
    family="LlamaForCausalLM",
    layers=3,
    kv_heads=2,
    head_dim=8,
    dataset="excerpt",
    samples=4,
    length=32,
    seed=1,
    linears={"mlp.up_proj": (16, 24)},
    clamped=(2,),
    versions={"mindpress": "0.1.0"},
)


def random_layers(header=HEADER):
    draw = torch.Generator().manual_seed(0)
    layers = []
    for _ in range(header.layers):
        tensors = {n: torch.randn(s, generator=draw) for n, s in header.layer_shapes().items()}
        for part in ("keys", "values"):
            tensors[f"{part}.max"] = tensors[f"{part}.min"] + 1
        layers.append(tensors)
    return layers


@pytest.fixture
def folder(tmp_path):
    save_statistics(tmp_path, HEADER, random_layers())
    return tmp_path


def test_what_is_saved_is_read_back(folder):
    found, layers = load_statistics(folder), random_layers()
    assert found.header.origin == {"model": "org/model", "dataset": "excerpt", "samples": "4",
                                   "length": "32", "seed": "1", "mindpress": "0.1.0"}  # fmt: skip
    assert (found.header.clamped, found.header.tokens) == ((2,), 128)
    assert found.header.linears == HEADER.linears
    for name, ranges in (("keys", found.ranges.keys), ("values", found.ranges.values)):
        assert torch.equal(ranges.low, torch.stack([x[f"{name}.min"] for x in layers]))
        assert torch.equal(ranges.high, torch.stack([x[f"{name}.max"] for x in layers]))
    given = found.linear(2, "mlp.up_proj", "output")
    assert set(given) == {"absmax", "absmean", "min", "max", "mean"}
    assert torch.equal(given["mean"], layers[2]["mlp.up_proj.output.mean"])
    with pytest.raises(ConfigError, match=r"no statistics of `mlp\.down_proj`"):
        found.linear(0, "mlp.down_proj", "input")


def change(folder, **values):
    file = folder / "statistics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(("key", "value"), [
    ("layers", "3"), ("layers", 0), ("kv_heads", True), ("samples", None), ("clamped", 5),
    ("clamped", ["a"]), ("versions", {}), ("linears", {"a": [1]}), ("linears", []),
    ("model", None), ("seed", 0.5),
])  # fmt: skip
def test_a_header_that_cannot_be_is_refused(folder, key, value):
    change(folder, **{key: value})
    with pytest.raises(InputError, match=rf"statistics\.json: `{key}`"):
        load_statistics(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"mindpress": 1}'])
def test_another_json_is_refused(folder, text):
    (folder / "statistics.json").write_text(text)
    with pytest.raises(InputError, match=r"statistics\.json"):
        load_statistics(folder)


@pytest.mark.parametrize("name", ["statistics.json", "statistics.safetensors"])
def test_a_missing_file_is_named_with_what_to_do(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=name) as caught:
        load_statistics(folder)
    assert "mindpress lite calibrate" in caught.value.hint


def test_pickles_of_lmdeploy_are_not_read(tmp_path):
    torch.save({}, tmp_path / "key_stats.pth")
    with pytest.raises(InputError, match="pickle"):
        load_statistics(tmp_path)


def test_a_truncated_file_and_a_changed_byte_are_found(folder):
    file = folder / "statistics.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[:-3], whole[:50], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"statistics\.safetensors: .*damaged"):
            load_statistics(folder)


@pytest.mark.parametrize("wrong", [
    {"layers": 2}, {"layers": 4}, {"head_dim": 4}, {"linears": {}},
    {"linears": {"mlp.up_proj": [24, 16]}},
], ids=str)  # fmt: skip
def test_tensors_of_another_model_are_refused(folder, wrong):
    change(folder, **wrong)
    with pytest.raises(InputError, match=r"statistics\.safetensors: `layers"):
        load_statistics(folder)


def test_tensors_of_another_run_of_the_same_model_are_refused(folder):
    tensors = load_file(folder / "statistics.safetensors")
    save_file({n: t + 1 for n, t in tensors.items()}, folder / "statistics.safetensors")
    with pytest.raises(InputError, match="another run"):
        load_statistics(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -9.0])
def test_ranges_that_are_none_are_refused(tmp_path, value):
    layers = random_layers()
    layers[1]["values.max"][0, 3] = value
    save_statistics(tmp_path, HEADER, layers)
    found = load_statistics(tmp_path)
    with pytest.raises(InputError, match="ranges of values"):
        assert found.ranges
