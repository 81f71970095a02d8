"""The `past_kv_scale` files that LMDeploy up to 0.3 reads, out of a workspace."""

from pathlib import Path

from mindpress.errors import InputError
from mindpress.formats.cache_scales import CacheScales, scales_from_files
from mindpress.formats.turbomind_cache import SCALE_BYTES, scale_names, unpack_scales
from mindpress.formats.turbomind_config import WorkspaceConfig
from mindpress.formats.turbomind_policy import reads_scale_files

AGAIN = "calibrate again: mindpress lite calibrate kv MODEL --workspace WORKSPACE"


def has_scale_files(weights: Path, config: WorkspaceConfig) -> bool:
    """Whether the engines of this workspace find calibrated scales. InputError for some files."""
    if config.cache_bits is None or not reads_scale_files(config.release):
        return False
    names = scale_names(config.layers, config.tp)
    missing = [name for name in names if not (weights / name).is_file()]
    if missing and len(missing) < len(names):
        raise InputError(
            f"{weights}: {len(missing)} of {len(names)} past_kv_scale files are missing, for"
            f" example {missing[0]}",
            hint=AGAIN,
        )
    return not missing


def read_scale_files(weights: Path, config: WorkspaceConfig) -> CacheScales | None:
    """The scales of all layers and ranks; None when there are no such files.

    InputError for damaged ones: not 16 bytes, NaN, infinities, a scale that is not positive.
    """
    if not has_scale_files(weights, config):
        return None
    if config.kv_heads % config.tp:
        raise InputError(f"{weights}: {config.kv_heads} kv heads are not shared by {config.tp}")
    names = scale_names(config.layers, config.tp)
    found = unpack_scales([_contents(weights / name) for name in names], config.layers)
    for name, four in zip(names, found.view(-1, 4), strict=True):
        if not four.isfinite().all() or not (four[::2] > 0).all():
            shown = ", ".join(f"{value:g}" for value in four.tolist())
            raise InputError(f"{weights / name}: no scales of a cache: {shown}", hint=AGAIN)
    return scales_from_files(found, config.kv_heads)


def _contents(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        if size != SCALE_BYTES:
            raise InputError(f"{file}: {size} bytes, expected {SCALE_BYTES}", hint=AGAIN)
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None
