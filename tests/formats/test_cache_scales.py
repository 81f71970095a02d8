"""Zero points and scales against the files that `lmdeploy lite kv_qparams` 0.2.6 wrote."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mindpress.errors import ConfigError
from mindpress.formats.cache_scales import (
    CacheRanges,
    Ranges,
    file_scales,
    scales_from_files,
    scales_of,
)
from mindpress.formats.cache_spec import CacheSpec

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "kv"


@pytest.fixture(scope="module")
def ranges():
    """Two layers, two heads of 128 channels."""
    parts = []
    for name in ("key_stats", "value_stats"):
        found = torch.load(GOLDEN / f"{name}.pth", weights_only=True)
        low, high = (torch.stack(list(found[key].values())).float() for key in ("min", "max"))
        parts.append(Ranges(low, high))
    return CacheRanges(*parts)


@pytest.mark.parametrize(
    ("case", "bits", "symmetric", "ranks"),
    [("tp1.asym", 8, False, 1), ("tp1.asym4bit", 4, False, 1), ("tp2.asym", 8, False, 2),
     ("tp1.sym", 8, True, 1), ("tp2.sym", 8, True, 2)],
)  # fmt: skip
def test_files_are_those_of_lmdeploy(ranges, case, bits, symmetric, ranks):
    found = file_scales(ranges, CacheSpec(bits, symmetric, "tensor"), ranks)
    assert found.shape == (2, ranks, 4)
    for layer in range(2):
        for rank in range(ranks):
            name = f"layers.{layer}.past_kv_scale.{rank}.weight"
            golden = np.fromfile(GOLDEN / f"llama128.{case}" / name, dtype=np.float32)
            ours = found[layer, rank].numpy()
            if symmetric:  # the engine refuses LMDeploy's own two numbers
                assert not ours[[1, 3]].any()
                ours = ours[[0, 2]]
            assert ours.tobytes() == golden.tobytes()


def test_files_read_back_are_the_scales_per_tensor(ranges):
    spec = CacheSpec(8, granularity="tensor")
    back = scales_from_files(file_scales(ranges, spec, 2), kv_heads=2)
    exact = scales_of(ranges, spec, 128, ranks=2)
    for ours, theirs in ((back.keys, exact.keys), (back.values, exact.values)):
        torch.testing.assert_close(ours.scale, theirs.scale, rtol=1e-3, atol=0)
        torch.testing.assert_close(ours.zero, theirs.zero, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    ("granularity", "shape"), [("tensor", (2, 2, 1)), ("head", (2, 2, 1)), ("channel", (2, 2, 128))]
)
def test_every_value_in_range_is_within_half_a_step(ranges, granularity, shape, symmetric):
    spec = CacheSpec(8, symmetric, granularity)
    found = scales_of(ranges, spec, 128)
    assert found.keys.scale.shape == shape
    assert (found.values is None) == (granularity == "channel")
    for x in (ranges.keys.low, ranges.keys.high, (ranges.keys.low + ranges.keys.high) / 2):
        codes = ((x - found.keys.zero) / found.keys.scale).round() + spec.middle
        kept = found.keys.scale * (codes.clamp(0, spec.largest) - spec.middle) + found.keys.zero
        assert ((kept - x).abs() <= found.keys.scale * 0.51).all()


def test_a_rotated_key_is_in_range_wherever_it_stands(ranges):
    """Calibration sees a slow pair at a few angles; a longer text turns it through all."""
    found = scales_of(ranges, CacheSpec(8, granularity="channel"), 96)
    bound = torch.maximum(ranges.keys.low.abs(), ranges.keys.high.abs())
    pairs = torch.maximum(bound[..., :48], bound[..., 48:96]).repeat(1, 1, 2)
    assert not found.keys.zero[..., :96].any()
    torch.testing.assert_close(found.keys.scale[..., :96] * 127.5, pairs)
    still = (ranges.keys.low + ranges.keys.high)[..., 96:] / 2
    torch.testing.assert_close(found.keys.zero[..., 96:], still)


def test_tokens_need_no_calibrated_scales(ranges):
    found = scales_of(ranges, CacheSpec(4), 128)
    assert found.keys is None
    assert found.values is None


def test_other_specs_are_refused():
    with pytest.raises(ConfigError, match="--kv-bits 5"):
        CacheSpec(5)
