"""What a folder or workspace is, and what is wrong with it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, TypeVar

from mindpress.checkpoint.companions import check_tokenizer_files
from mindpress.checkpoint.reader import read_json
from mindpress.checkpoint.verify import verify
from mindpress.errors import InputError, MindpressError
from mindpress.events import Listener, ignore
from mindpress.formats.cache_scales import CacheScales
from mindpress.formats.cache_spec import CacheSpec
from mindpress.formats.turbomind_config import WorkspaceConfig
from mindpress.formats.turbomind_policy import has_policy, reads_scale_files
from mindpress.models.description import Architecture
from mindpress.models.llama import LLAMA
from mindpress.models.shape import ModelShape, architecture_of, read_shape
from mindpress.models.tensors import all_tensors
from mindpress.sources.cache_file import CACHE_FILE, read_cache_file
from mindpress.sources.folder import ModelFolder, linear_sizes, open_folder
from mindpress.sources.opening import is_workspace
from mindpress.sources.scale_files import read_scale_files
from mindpress.sources.workspace import FOLDER, Workspace, open_workspace, read_workspace_config

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Inspection:
    """A model on disk in numbers; None where it could not be found out.

    `parameters` counts the weights of the model, not the words they are packed in; a padded
    workspace has its padding among them. `bytes` are those of all tensors. `version` says
    which LMDeploy wrote a workspace, and which transformers a folder. `cache` says how the
    engine shall keep keys and values; None in floats. `verified` counts the files whose hashes were
    compared.
    """

    path: str
    kind: str
    format: str | None = None
    family: str | None = None
    parameters: int | None = None
    bits_per_weight: float | None = None
    bytes: int | None = None
    tp: int | None = None
    layers: int | None = None
    hidden: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    vocab: int | None = None
    group_size: int | None = None
    dtype: str | None = None
    version: str | None = None
    cache: CacheSpec | None = None
    verified: int | None = None
    problems: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The inspection as JSON."""
        return asdict(self)


def inspect_path(path: Path, *, hashes: bool = False, listener: Listener = ignore) -> Inspection:
    """Describe a model folder or a workspace. Reads no weights, but with `hashes` every file whose
    hash is known.

    Damage is listed in `problems`, with everything that can be told in spite of it; InputError
    only when there is no such folder.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such folder", hint="give a model folder or a workspace")
    found = _workspace(path) if is_workspace(path) else _folder(path)
    if not hashes:
        return found
    problems = list(found.problems)
    verified = _tried(problems, lambda: verify(path, listener))
    return replace(found, verified=verified, problems=tuple(problems))


def _folder(path: Path) -> Inspection:
    problems: list[str] = []
    config = _tried(problems, lambda: read_json(path / "config.json")) or {}
    architecture = _tried(problems, lambda: architecture_of(config)) if config else None
    shape = _tried(problems, lambda: read_shape(config, architecture)) if architecture else None
    opened = _tried(problems, lambda: open_folder(path))
    _tried(problems, lambda: check_tokenizer_files(path))
    version = config.get("transformers_version")
    return Inspection(
        path=str(path),
        kind="model folder" if config else "unknown",
        family=architecture.hf_class if architecture else None,
        version=version if isinstance(version, str) else None,
        problems=tuple(problems),
        **(_sizes(shape) if shape else {}),
        **(_contents(opened, opened.checkpoint.nbytes) if opened else {}),
        **(_folder_format(opened) if opened else {}),
    )


def _folder_format(folder: ModelFolder) -> dict[str, Any]:
    layout = folder.layout
    if layout is None:
        return {"format": "safetensors", "dtype": folder.shape.dtype}
    widths = sorted({layout.of(name).spec.bits for name in folder.coded})
    floats = len(linear_sizes(folder.architecture, folder.shape)) - len(folder.coded)
    beside = f", {floats} in {folder.shape.dtype}" if floats else ""
    order = ", groups out of order: computed in floats" if folder.scattered else ""
    return {
        "format": layout.label + order,
        "dtype": " and ".join(f"int{bits}" for bits in widths) + beside,
        "group_size": layout.spec.group_size,
    }


def _workspace(path: Path) -> Inspection:
    problems: list[str] = []
    config = _tried(problems, lambda: read_workspace_config(path))
    opened = _tried(problems, lambda: open_workspace(path))
    _tried(problems, lambda: check_tokenizer_files(path / FOLDER / "tokenizer"))
    if config is None:
        return Inspection(str(path), "workspace", problems=tuple(problems))
    cache = _cache(path, config, problems)
    return Inspection(
        path=str(path),
        kind="workspace",
        format=f"TurboMind config.{config.layout}",
        family=config.model_arch or LLAMA.hf_class,
        tp=config.tp,
        group_size=config.group_size or None,
        dtype=config.weight_type,
        version=config.release,
        problems=(*problems, *(opened.problems if opened else ())),
        cache=cache,
        **_sizes(config.shape),
        **(_contents(opened, opened.nbytes) if opened else {}),
    )


def _cache(path: Path, config: WorkspaceConfig, problems: list[str]) -> CacheSpec | None:
    """How the cache is kept: as the side file says, else LMDeploy's files, else the config."""
    stored = _tried(problems, lambda: read_cache_file(path))
    files = _scale_files(path, config, problems)
    if stored:
        spec = stored.scales.spec
        if has_policy(config.release) and config.cache_bits != spec.bits:
            asked = f"an int{config.cache_bits}" if config.cache_bits else "a 16-bit"
            problems.append(
                f"{CACHE_FILE} is of an int{spec.bits} cache, `quant_policy ="
                f" {config.quant_policy}` of {asked} one"
            )
        return spec
    if config.cache_bits is None:
        return None
    return files.spec if files else CacheSpec(config.cache_bits)


def _scale_files(path: Path, config: WorkspaceConfig, problems: list[str]) -> CacheScales | None:
    """What LMDeploy up to 0.3 reads; their absence is a problem where the config asks for them."""
    if config.cache_bits is None or not reads_scale_files(config.release):
        return None
    before = len(problems)
    files = _tried(problems, lambda: read_scale_files(path / FOLDER / "weights", config))
    if files is None and len(problems) == before:
        problems.append(
            "no past_kv_scale files: LMDeploy up to 0.3 takes a scale of 1 for all keys and values"
        )
    return files


def _sizes(shape: ModelShape) -> dict[str, Any]:
    return {
        "layers": shape.layers,
        "hidden": shape.hidden,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab": shape.vocab,
    }


def _contents(source: ModelFolder | Workspace, nbytes: int) -> dict[str, Any]:
    parameters = _parameters(source.architecture, source.shape)
    return {
        "parameters": parameters,
        "bytes": nbytes,
        "bits_per_weight": 8 * nbytes / parameters,
    }


def _parameters(architecture: Architecture, shape: ModelShape) -> int:
    return sum(prod(size) for size in all_tensors(architecture, shape).values())


def _tried(problems: list[str], call: Callable[[], Found]) -> Found | None:
    """What `call` returns, or None and one more problem."""
    try:
        return call()
    except MindpressError as error:
        text = f"{error} ({error.hint})" if error.hint else str(error)
        if not any(known in text for known in problems):
            problems.append(text)
        return None
