"""Calibrated ranges -> what a workspace keeps of them, checked before anything is written."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float32
from torch import Tensor

from mindpress.errors import InputError, NumericError
from mindpress.events import Note
from mindpress.formats.cache_scales import CacheRanges, CacheScales, Ranges, file_scales, scales_of
from mindpress.formats.cache_spec import CacheSpec
from mindpress.formats.finite import is_finite
from mindpress.formats.turbomind_cache import pack_scales, scale_names
from mindpress.formats.turbomind_config import WorkspaceConfig
from mindpress.formats.turbomind_policy import reads_scale_files

CLAMP = "calibrate again; the activations of the model are damaged"


@dataclass(frozen=True, slots=True)
class CacheContents:
    """The scales of the side file, the files that LMDeploy reads, and what to know of them."""

    scales: CacheScales
    files: dict[str, bytes] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()


def cache_contents(
    ranges: CacheRanges | None, spec: CacheSpec, config: WorkspaceConfig
) -> CacheContents:
    """What a workspace with `config` keeps of `ranges`; None where nothing was calibrated.

    InputError for ranges of another model, NumericError for values that cannot be scaled.
    """
    if ranges is None:
        return CacheContents(CacheScales(spec, None, None))
    check_ranges(ranges, config)
    scales = scales_of(ranges, spec, config.rotary_dim, config.tp)
    if not reads_scale_files(config.release):
        return CacheContents(scales)
    found, constant = _nonzero(file_scales(ranges, spec, config.tp))
    _check_float16(found, config.release)
    files = dict(zip(scale_names(config.layers, config.tp), pack_scales(found), strict=True))
    return CacheContents(scales, files, _constant_notes(constant))


def check_ranges(ranges: CacheRanges, config: WorkspaceConfig) -> None:
    """Refuse ranges of other layers, heads or channels, and such that are no ranges."""
    expected = (config.layers, config.kv_heads, config.head_dim)
    for name, found in (("keys", ranges.keys), ("values", ranges.values)):
        for extreme in (found.low, found.high):
            if tuple(extreme.shape) != expected:
                raise InputError(
                    f"calibrated ranges of {name} are {list(extreme.shape)}, the model has"
                    f" {list(expected)} (layers, kv heads, channels)",
                    hint="calibrate this model",
                )
        _check_values(name, found)


def _check_values(name: str, ranges: Ranges) -> None:
    for layer, (low, high) in enumerate(zip(ranges.low, ranges.high, strict=True)):
        if not is_finite(low) or not is_finite(high):
            raise NumericError(f"layer {layer}: NaN or infinite ranges of {name}", hint=CLAMP)
        if bool((low > high).any()):
            raise InputError(f"layer {layer}: ranges of {name} end before they begin", hint=CLAMP)


def _nonzero(
    scales: Float32[Tensor, "layers ranks 4"],
) -> tuple[Float32[Tensor, "layers ranks 4"], int]:
    """Scales of 1 for those of 0, and how many they were.

    A constant has a range of 0 and LMDeploy divides by the scale; with any other scale all codes
    are the middle one, which means the zero point: the constant itself.
    """
    fixed = scales.clone()
    constant = fixed[..., ::2] == 0
    fixed[..., ::2] = torch.where(constant, 1.0, fixed[..., ::2])
    return fixed, int(constant.sum())


def _constant_notes(count: int) -> tuple[Note, ...]:
    if not count:
        return ()
    text = f"{count} scales are of keys or values that never change; they are written as 1"
    return (Note(text, "warning"),)


def _check_float16(scales: Float32[Tensor, "layers ranks 4"], release: str) -> None:
    """LMDeploy computes its files in float16, which a wide range leaves."""
    for layer, found in enumerate(scales):
        if not is_finite(found):
            raise NumericError(
                f"layer {layer}: keys or values leave the float16 in which LMDeploy {release}"
                " keeps its scales",
                hint="convert with --tm-version 0.5",
            )
