"""Calibrated scales of a cache, written into a workspace."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from mindpress.checkpoint.disk import disk_errors
from mindpress.checkpoint.locking import locked
from mindpress.checkpoint.manifest import changing
from mindpress.checkpoint.replacing import replace_file
from mindpress.convert.cache_contents import CacheContents, cache_contents
from mindpress.convert.cache_rules import cache_notes, check_calibrated, check_spec
from mindpress.errors import InputError
from mindpress.events import Listener, ignore
from mindpress.formats.cache_scales import CacheRanges
from mindpress.formats.cache_spec import CacheSpec
from mindpress.formats.turbomind_cache import MARK
from mindpress.formats.turbomind_policy import policy_of, with_policy
from mindpress.sources.cache_file import cache_file, write_cache_file
from mindpress.sources.fingerprint import model_fingerprint
from mindpress.sources.signature import cache_signature, same_cache
from mindpress.sources.workspace import FOLDER, Workspace, open_workspace

CONFIG = "config.ini"


def check_cache_target(workspace: Path, spec: CacheSpec, signature: str | None = None) -> Workspace:
    """The workspace that scales of `spec` are to be written into, before any slow work.

    `workspace` may also be its `triton_models/weights`. `signature` is the model's that was
    calibrated. Raises InputError when there is no workspace or one of another model, ConfigError
    for a cache that its LMDeploy release has not, ResourceError when it cannot be written.
    """
    found = open_workspace(_root(workspace))
    config = found.config
    check_spec(config.release, spec, config.head_dim)
    check_calibrated(config.release, spec, calibrated=True)
    if config.kv_heads % config.tp:
        raise InputError(f"{workspace}: {config.tp} ranks cannot share {config.kv_heads} kv heads")
    _new_config(found, spec)
    with disk_errors(found.weights):
        tempfile.TemporaryFile(dir=found.weights).close()
    if signature is not None:
        _check_model(found, signature)
    return found


def write_cache_scales(
    workspace: Path,
    ranges: CacheRanges,
    spec: CacheSpec,
    origin: Mapping[str, str],
    signature: str,
    listener: Listener = ignore,
) -> list[Path]:
    """Write what `ranges` give into an existing workspace and set its `quant_policy`.

    Raises what `check_cache_target` raises, InputError for ranges of another shape, NumericError
    for values that cannot be scaled, LockedError while another run writes the workspace. Each file
    is replaced whole and the config last, so that a cache is asked for when all its scales are
    there. The written files.
    """
    with locked(_root(workspace)):
        found = check_cache_target(workspace, spec, signature)
        contents = cache_contents(ranges, spec, found.config)
        config = _new_config(found, spec)
        for note in (*cache_notes(found.config.release, spec), *contents.notes):
            listener(note)
        old = [*found.weights.glob(f"*{MARK}*")]
        new = [*(found.weights / name for name in contents.files), cache_file(found.folder)]
        with changing(found.folder, [*old, *new, found.weights / CONFIG]):
            written = write_contents(found, contents, origin)
            if config is not None:
                replace_file(found.weights / CONFIG, config)
                written.append(found.weights / CONFIG)
            with disk_errors(found.weights):
                for file in set(old) - set(new):
                    file.unlink()
    return written


def write_contents(
    workspace: Workspace, contents: CacheContents, origin: Mapping[str, str]
) -> list[Path]:
    """Write the files of a cache beside weights that are there, all but the config."""
    for name, data in contents.files.items():
        replace_file(workspace.weights / name, data)
    side = write_cache_file(workspace.folder, contents.scales, model_fingerprint(workspace), origin)
    return [*(workspace.weights / name for name in contents.files), side]


def _root(path: Path) -> Path:
    """The workspace, of which `path` may be an inner folder; InputError when there is none."""
    whole = path.resolve()
    inner = next((place for place in (whole, whole.parent) if place.name == FOLDER), None)
    root = inner.parent if inner else whole
    if not (root / FOLDER).is_dir():
        raise InputError(
            f"{path}: no TurboMind workspace", hint="write one first: mindpress convert MODEL"
        )
    return root


def _new_config(workspace: Workspace, spec: CacheSpec) -> bytes | None:
    """config.ini with the `quant_policy` of `spec`; None for a layout that has no such key."""
    policy = policy_of(workspace.config.release, spec.bits)
    if policy is None:
        return None
    file = workspace.weights / CONFIG
    try:
        return with_policy(file.read_bytes(), policy)
    except InputError as error:
        raise InputError(f"{file}: {error}", hint=error.hint) from None


def _check_model(workspace: Workspace, signature: str) -> None:
    if not same_cache(cache_signature(workspace), signature):
        raise InputError(
            f"{workspace.folder}: holds another model than the one that was calibrated, or the same"
            " with its values smoothed",
            hint="calibrate the very folder this workspace was made from, in 4 bits if it is",
        )
