"""The side file of a workspace with the scales of its cache, finer than LMDeploy's own.

LMDeploy reads only `weights/` and `tokenizer/`, so a file beside them changes nothing for it. One
safetensors file: `key_scale`, `key_zero`, `value_scale`, `value_zero` [layers, kv_heads, channels]
in float32, those that the spec scales per token left out, and the rest as JSON in its metadata.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mindpress.checkpoint.replacing import replace_file
from mindpress.errors import ConfigError, InputError
from mindpress.formats.cache_scales import CacheScales, Grid
from mindpress.formats.cache_spec import CacheSpec, Granularity
from mindpress.formats.finite import is_finite
from mindpress.formats.turbomind_config import WorkspaceConfig
from mindpress.sources.fingerprint import model_fingerprint
from mindpress.sources.scale_files import read_scale_files
from mindpress.sources.workspace import FOLDER, Workspace, read_workspace_config

CACHE_FILE = "mindpress-cache.safetensors"
# One key of metadata: safetensors writes several in random order.
METADATA = "mindpress"
# What a spec that somebody edited can raise.
NOT_TOLD = (ValueError, KeyError, TypeError, AttributeError)
AGAIN = "calibrate again, or delete the file"


@dataclass(frozen=True, slots=True)
class StoredCache:
    """The scales, the fingerprint of their model, and how they came to be: dataset, seed ..."""

    scales: CacheScales
    fingerprint: str
    origin: Mapping[str, str]


def cache_file(folder: Path) -> Path:
    """Where the side file of a workspace is."""
    return folder / FOLDER / CACHE_FILE


def write_cache_file(
    folder: Path, scales: CacheScales, fingerprint: str, origin: Mapping[str, str]
) -> Path:
    """Write or replace the side file of the workspace `folder`; the file. ResourceError."""
    told = {"spec": asdict(scales.spec), "fingerprint": fingerprint, "origin": dict(origin)}
    tensors: dict[str, Tensor] = {}
    for name, grid in (("key", scales.keys), ("value", scales.values)):
        if grid is not None:
            tensors[f"{name}_scale"] = grid.scale.float().clone(
                memory_format=torch.contiguous_format
            )
            tensors[f"{name}_zero"] = grid.zero.float().clone(memory_format=torch.contiguous_format)
    data = save(tensors, metadata={METADATA: json.dumps(told, sort_keys=True)})
    file = cache_file(folder)
    replace_file(file, data)
    return file


def read_cache_file(folder: Path) -> StoredCache | None:
    """The side file of the workspace `folder`; None when it has none.

    InputError, which names the file, when it is damaged, when its tensors have other sizes than
    the model's heads, and when they hold NaN, infinities or negative scales.
    """
    file = cache_file(folder)
    if not os.path.lexists(file):
        return None
    if not file.is_file():
        raise InputError(f"{file}: is no file, or a link to nothing", hint=AGAIN)
    config = read_workspace_config(folder)
    try:
        with safe_open(file, framework="pt") as opened:
            spec, fingerprint, origin = _told(opened.metadata())
            _check_shapes(_shapes(opened), spec, config)
            tensors = {
                name: opened.get_tensor(name).float() for name in stored_shapes(spec, config)
            }
    except (SafetensorError, OSError, ConfigError, *NOT_TOLD) as error:
        raise InputError(f"{file}: damaged: {error}", hint=AGAIN) from None
    except InputError as error:
        raise InputError(f"{file}: {error}", hint=AGAIN) from None
    _check_values(tensors, file)
    scales = CacheScales(spec, _grid(tensors, "key"), _grid(tensors, "value"))
    return StoredCache(scales, fingerprint, origin)


def read_cache_scales(workspace: Workspace) -> CacheScales | None:
    """The calibrated scales of a workspace: its side file's, else those that LMDeploy reads.

    None when there are neither. Raises what `read_cache_file` and `read_scale_files` raise, and
    InputError for a side file that was made for another model.
    """
    stored = read_cache_file(workspace.folder)
    if stored is None:
        return read_scale_files(workspace.weights, workspace.config)
    if stored.fingerprint != model_fingerprint(workspace):
        raise InputError(
            f"{cache_file(workspace.folder)}: made for another model than this workspace's",
            hint=AGAIN,
        )
    return stored.scales


def _told(metadata: Mapping[str, str] | None) -> tuple[CacheSpec, str, dict[str, str]]:
    told: dict[str, Any] = json.loads((metadata or {})[METADATA])
    spec = CacheSpec(**told["spec"])
    known = spec.granularity in get_args(Granularity)
    if type(spec.bits) is not int or not isinstance(spec.symmetric, bool) or not known:
        raise ValueError(f"no way to keep a cache: {told['spec']}")
    origin = {str(key): str(value) for key, value in told["origin"].items()}
    return spec, str(told["fingerprint"]), origin


def stored_shapes(spec: CacheSpec, config: WorkspaceConfig) -> dict[str, tuple[int, ...]]:
    """The tensors that a spec stores for a model."""
    stored = {"tensor": ("key", "value"), "head": ("key", "value"), "channel": ("key",)}
    channels = config.head_dim if spec.granularity == "channel" else 1
    shape = (config.layers, config.kv_heads, channels)
    return {
        f"{name}_{part}": shape
        for name in stored.get(spec.granularity, ())
        for part in ("scale", "zero")
    }


def _shapes(opened: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 - a safe_open is no mapping


def _check_shapes(
    found: Mapping[str, tuple[int, ...]], spec: CacheSpec, config: WorkspaceConfig
) -> None:
    expected = stored_shapes(spec, config)
    odd = sorted(found.keys() ^ expected.keys())
    if odd:
        state = "is missing" if odd[0] in expected else "does not belong there"
        raise InputError(f"`{odd[0]}` {state}")
    for name, shape in expected.items():
        if found[name] != shape:
            raise InputError(
                f"`{name}` is {list(found[name])}, the workspace asks for {list(shape)}"
            )


def _check_values(tensors: Mapping[str, Tensor], file: Path) -> None:
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise InputError(f"{file}: `{name}`: NaN or infinite values", hint=AGAIN)
        if name.endswith("_scale") and bool((tensor < 0).any()):
            raise InputError(f"{file}: `{name}`: negative scales", hint=AGAIN)


def _grid(tensors: Mapping[str, Tensor], name: str) -> Grid | None:
    scale, zero = tensors.get(f"{name}_scale"), tensors.get(f"{name}_zero")
    return None if scale is None or zero is None else Grid(scale, zero)
