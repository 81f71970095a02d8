import json
import time
from dataclasses import dataclass, replace

import pytest
import torch

from mindpress.events import Advanced, Finished, Started
from mindpress.kernels.matmul_w4a16.reference import matmul_reference
from mindpress.kernels.matmul_w4a16.regimes import TileConfig, default_config
from mindpress.kernels.matmul_w4a16.tiles import untile_weight
from mindpress.kernels.tuning import Key, bucket, known_table
from mindpress.kernels.tuning.table import cache_file
from mindpress.kernels.tuning.tune import tune_missing

KEY = Key("NVIDIA H200", "matmul_w4a16", 4096, 4096, 128, "float16", 16)


@dataclass(frozen=True)
class Tile:
    width: int
    warps: int = 4


def slow(key, config):
    return abs(config.width - 64.0)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("rows", "expected"), [(1, 1), (2, 2), (3, 4), (16, 16), (17, 32), (4096, 4096), (9999, 4096)]
)
def test_rows_round_up_to_a_bucket(rows, expected):
    assert bucket(rows) == expected


def test_the_fastest_is_found_once_and_known_in_the_next_process():
    events = []
    wanted = {KEY: [Tile(32), Tile(64, 8), Tile(128)]}
    assert tune_missing(known_table(), wanted, slow, events.append) == 1
    assert [type(event) for event in events] == [Started, Advanced, Finished]
    assert events[1].detail == "NVIDIA H200/matmul_w4a16/4096x4096/g128/float16/16"

    def never(key, config):
        raise AssertionError("tuned twice")

    later = known_table()
    assert later.get(KEY, Tile) == Tile(64, 8)
    assert tune_missing(later, wanted, never) == 0


def test_other_keys_are_other_entries():
    table = known_table()
    tune_missing(table, {KEY: [Tile(64)]}, slow)
    changes = ({"rows": 32}, {"device": "RTX 4090"}, {"group": 64}, {"dtype": "bfloat16"},
               {"outputs": 8}, {"inputs": 8}, {"operation": "matmul_w8a8"})  # fmt: skip
    assert all(table.get(replace(KEY, **change), Tile) is None for change in changes)


def test_what_an_interrupted_run_has_found_is_kept():
    keys = [replace(KEY, rows=rows) for rows in (1, 2, 4)]

    def interrupted(key, config):
        if key.rows == 4:
            raise KeyboardInterrupt
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        tune_missing(known_table(), {key: [Tile(64)] for key in keys}, interrupted)
    assert [known_table().get(key, Tile) for key in keys] == [Tile(64), Tile(64), None]


def test_what_cannot_run_at_all_is_not_kept():
    def never_ends(key, config):
        return float("inf")

    tune_missing(known_table(), {KEY: [Tile(32), Tile(64)]}, never_ends)
    assert known_table().get(KEY, Tile) is None


def test_two_processes_keep_what_both_found():
    one, other = known_table(), known_table()
    one.add({KEY: Tile(1)})
    other.add({replace(KEY, rows=1): Tile(2)})
    assert len(json.loads(cache_file().read_text())) == 2


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 3}', "{"])
def test_a_damaged_file_costs_only_time(content):
    cache_file().parent.mkdir()
    cache_file().write_text(content)
    table = known_table()
    assert str(cache_file()) in table.problem
    tune_missing(table, {KEY: [Tile(64)]}, slow)
    assert known_table().get(KEY, Tile) == Tile(64)


def test_an_entry_of_another_version_is_tuned_again():
    cache_file().parent.mkdir()
    cache_file().write_text(json.dumps({str(KEY): {"height": 3}}))
    assert known_table().get(KEY, Tile) is None


def test_a_folder_that_cannot_be_written_is_no_failure(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    table = known_table()
    table.add({KEY: Tile(64)})
    assert table.get(KEY, Tile) == Tile(64)
    assert "tuned.json" in table.problem


@pytest.fixture
def products():
    pytest.importorskip("triton", reason="no Triton")
    from mindpress.kernels.tuning import products

    return products


@pytest.fixture
def clock():
    pytest.importorskip("triton", reason="no Triton")
    from mindpress.kernels.tuning import clock

    return clock


def tiled(products, outputs, inputs=512):
    key = replace(KEY, outputs=outputs, inputs=inputs)
    return products.random_weight(key, torch.device("cpu"))


def test_every_shape_of_a_model_is_tuned_once_for_each_bucket(products):
    weights = [tiled(products, outputs) for outputs in (64, 40, 64)]
    shapes = products.shapes_of(weights)
    assert [(one.outputs, one.inputs, one.group) for one in shapes] == [
        (64, 512, 128), (40, 512, 128)
    ]  # fmt: skip
    wanted = products.wanted(shapes, torch.device("cpu"))
    assert [key.rows for key in wanted] == 2 * [1, 2, 4, 8, 16, 32, 64, 128, 256]
    for key, configs in wanted.items():
        usual = default_config(80, key.rows, key.outputs, key.inputs, key.group)
        assert configs[0] == usual
        assert len(configs) > 1
    table = known_table()
    tune_missing(table, wanted, lambda key, config: -float(wanted[key].index(config)))
    assert all(table.get(key, TileConfig) == configs[-1] for key, configs in wanted.items())


def test_a_clock_times_the_product_of_its_key(products):
    key = replace(KEY, outputs=40, inputs=256, group=64, rows=3)
    heard = []

    def measure(launches, device):
        heard.append(launches)
        return 1.5

    timed = products.ProductClock(torch.device("cpu"), measure)
    configs = (TileConfig("codes", 8, 32, 1, 2, split=2), TileConfig("rounded", 16, 32, 1, 2))
    assert [timed(key, config) for config in configs] == [1.5, 1.5]
    for launches, config in zip(heard, configs, strict=True):
        x, weight, used, _ = launches[0].args
        assert used == config
        assert len({one.args[1].words.data_ptr() for one in launches}) == 2
        expected = matmul_reference(x, untile_weight(weight), torch.float64)
        assert (launches[0]().double() - expected).norm() < 2e-3 * expected.norm()
    assert heard[0][0].args[1] is heard[1][0].args[1]
    timed(replace(key, dtype="bfloat16"), configs[1])
    assert heard[2][0].args[0].dtype == torch.bfloat16


def test_what_needs_more_than_there_is_takes_for_ever(clock):
    from triton.runtime.errors import OutOfResources

    def large():
        raise OutOfResources(300_000, 232_448, "shared memory")

    def wrong():
        raise RuntimeError("misaligned address")

    cpu = torch.device("cpu")
    assert clock.milliseconds([large], cpu) == float("inf")
    with pytest.raises(RuntimeError, match="misaligned"):
        clock.milliseconds([wrong], cpu)


def test_a_time_is_that_of_one_launch(clock):
    cpu = torch.device("cpu")
    slow = clock.captured([lambda: time.sleep(0.02)] * 3, cpu)
    quick = clock.captured([lambda: None], cpu)
    found = clock.medians([slow, quick])
    assert 20 <= found[0] < 60
    assert found[1] < 5
