"""Everything about a conversion that can be checked and decided before a weight is read."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mindpress.checkpoint.companions import check_tokenizer_files
from mindpress.checkpoint.hub import local_folder
from mindpress.checkpoint.staging import check_not_inside, check_space, check_target
from mindpress.convert.cache_rules import cache_notes, check_calibrated, check_spec
from mindpress.convert.fitting import (
    check_codes,
    check_family,
    check_tp,
    choose_dialect,
    misfits,
    padded_inner,
    readers_of,
)
from mindpress.convert.memory import conversion_bytes
from mindpress.convert.settings import TENSOR_PARALLEL, VERSIONS, Conversion
from mindpress.convert.tokens import special_ids, tokenizer_files
from mindpress.errors import ConfigError, InputError
from mindpress.events import Note
from mindpress.formats.cache_spec import CacheSpec
from mindpress.formats.turbomind_config import WeightType, WorkspaceConfig, write_rope
from mindpress.formats.turbomind_dialects import V0_2, V0_3, V0_5, Dialect
from mindpress.formats.turbomind_files import weight_files
from mindpress.formats.turbomind_policy import policy_of
from mindpress.memory import bound_of
from mindpress.sources.folder import ModelFolder, open_folder
from mindpress.sources.opening import format_of

# LMDeploy up to 0.5 refuses a name that is none of its templates; this one adds no prompt.
NO_TEMPLATE = "base"
# LMDeploy 0.2 and 0.3 took the longest text from the chat template; all others have 2048 tokens.
# 0.2 knew no `deepseek-coder`.
TEMPLATE_LENGTHS = {
    "llama2": 4096, "llama-2": 4096, "llama-2-chat": 4096, "codellama": 4096,
    "deepseek-coder": 4096, "internlm-20b": 4096,
    "qwen-7b": 8192, "qwen-14b": 8192, "qwen": 8192,
    "internlm-chat-7b-8k": 8192, "internlm-chat-20b": 8192, "internlm2": 32768,
    "internlm2-chat": 32768, "internlm2-chat-7b": 32768, "internlm2-chat-20b": 32768,
}  # fmt: skip
OTHER_LENGTH = 2048


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """A checked conversion: what is read, every file that will be written, and what to know."""

    folder: ModelFolder
    target: Path
    dialect: Dialect
    config: WorkspaceConfig
    files: dict[str, int]
    copied: list[Path]
    notes: tuple[Note, ...]
    overwrite: bool
    cache: CacheSpec | None = None

    @property
    def bytes(self) -> int:
        """Bytes of all weight files."""
        return sum(self.files.values())

    @property
    def peak_memory(self) -> int:
        """A bound in bytes on what the conversion adds to the bare process."""
        return bound_of(conversion_bytes(self.folder, self.config))

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON."""
        return {
            "source": str(self.folder.folder),
            "target": str(self.target),
            "tm_version": self.dialect.version,
            "release": self.dialect.release,
            "config": self.dialect.file,
            "tp": self.config.tp,
            "weight_type": self.config.weight_type,
            "group_size": self.config.group_size,
            "layers": self.config.layers,
            "files": len(self.files),
            "bytes": self.bytes,
            "peak_memory_bytes": self.peak_memory,
            "cache": asdict(self.cache) if self.cache else None,
            "notes": [note.text for note in self.notes],
        }


def plan_conversion(settings: Conversion, *, calibrated: bool = False) -> ConversionPlan:
    """Check a conversion and decide its details. Reads JSON and headers, writes nothing.

    `calibrated`: ranges of keys and values are there, or will be when the model is converted.

    Raises ConfigError, InputError, UnsupportedModelError or ResourceError for everything that can
    go wrong but values in the weights.
    """
    _check_settings(settings)
    check_target(settings.target, "workspace", overwrite=settings.overwrite)
    folder = _open(settings)
    check_not_inside(settings.target, folder.folder)
    _check_format(folder, settings)
    check_family(folder)
    check_codes(folder)
    dialect = choose_dialect(folder, settings.tm_version, force=settings.force)
    check_tp(folder, settings.tp, dialect)
    _check_cache(settings, folder, dialect, calibrated=calibrated)
    config = _config(folder, settings, dialect)
    files = weight_files(config)
    check_space(settings.target, sum(files.values()))
    return ConversionPlan(
        folder=folder,
        target=settings.target,
        dialect=dialect,
        config=config,
        files=files,
        copied=tokenizer_files(folder.folder),
        notes=tuple(_notes(folder, settings, dialect, config)),
        overwrite=settings.overwrite,
        cache=settings.cache,
    )


def _check_settings(settings: Conversion) -> None:
    if settings.tp not in TENSOR_PARALLEL:
        known = ", ".join(str(tp) for tp in TENSOR_PARALLEL)
        raise ConfigError(f"--tp {settings.tp}: not a degree of TurboMind", hint=f"use {known}")
    if settings.tm_version not in VERSIONS:
        known = ", ".join(VERSIONS)
        raise ConfigError(f"--tm-version {settings.tm_version}: not known", hint=f"use {known}")
    name = settings.model_name
    if name is not None and not re.fullmatch(r"[\w.+-]+", name):
        raise ConfigError(
            f"--model-name {name!r}: not the name of a chat template",
            hint="for example llama2, internlm2 or base",
        )


def _open(settings: Conversion) -> ModelFolder:
    folder = local_folder(settings.source)
    if (folder / "triton_models").is_dir():
        raise InputError(
            f"{folder}: is a TurboMind workspace already",
            hint="convert the model folder it was made from",
        )
    opened = open_folder(folder)
    check_tokenizer_files(folder)
    return opened


def _check_format(folder: ModelFolder, settings: Conversion) -> None:
    """Refuse flags that describe another folder."""
    found = format_of(folder)
    if settings.model_format not in ("auto", found):
        raise ConfigError(
            f"--model-format {settings.model_format}: {folder.folder} holds"
            f" {folder.layout.label if folder.layout else 'floats'}",
            hint=f"use --model-format {found}, or leave it out",
        )
    group = folder.spec.group_size if folder.spec else 0
    if settings.group_size and settings.group_size != group:
        held = f"groups of {group}" if group else "no groups"
        raise ConfigError(
            f"--group-size {settings.group_size}: {folder.folder} has {held}",
            hint="leave it out; the folder says its group size",
        )
    if folder.spec and settings.dtype == "bfloat16":
        raise ConfigError(
            "--dtype bfloat16: an int4 workspace holds float16", hint="use --dtype auto"
        )


def _check_cache(
    settings: Conversion, folder: ModelFolder, dialect: Dialect, *, calibrated: bool
) -> None:
    """Refuse a cache that engines of the dialect have not, and ranges without a use."""
    if settings.cache:
        check_spec(dialect.release, settings.cache, folder.shape.head_dim)
        check_calibrated(dialect.release, settings.cache, calibrated=calibrated)
    elif calibrated:
        raise ConfigError("--calib: a 16-bit cache needs no calibration", hint="add --kv-bits 8")


def _config(folder: ModelFolder, settings: Conversion, dialect: Dialect) -> WorkspaceConfig:
    shape, spec = folder.shape, folder.spec
    name = settings.model_name or NO_TEMPLATE
    start_id, end_id = special_ids(folder)
    rope, trained = write_rope(shape.rope), folder.config.get("max_position_embeddings")
    trained = trained if isinstance(trained, int) else shape.max_length
    session = shape.max_length
    if dialect in (V0_2, V0_3):
        session = TEMPLATE_LENGTHS.get(name, OTHER_LENGTH)
    return WorkspaceConfig(
        layout=dialect.layout,
        release=dialect.release,
        model_name=name,
        model_arch=folder.architecture.hf_class,
        tp=settings.tp,
        layers=shape.layers,
        hidden=shape.hidden,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        rotary_dim=shape.rotary_dim,
        inner=padded_inner(folder, settings.tp, dialect),
        vocab=shape.vocab,
        norm_eps=shape.norm_eps,
        attn_bias=bool(shape.biases.query_key_value or shape.biases.output),
        start_id=start_id,
        end_id=end_id,
        session_length=session,
        # Engines compute yarn from this key and do not read the other one.
        trained_length=(rope.original_length or trained) if rope.kind == "yarn" else trained,
        weight_type=_weight_type(folder, settings),
        group_size=spec.group_size if spec else 0,
        rope=rope,
        quant_policy=_policy(settings, dialect),
    )


def _policy(settings: Conversion, dialect: Dialect) -> int:
    return (settings.cache and policy_of(dialect.release, settings.cache.bits)) or 0


def _weight_type(folder: ModelFolder, settings: Conversion) -> WeightType:
    """As LMDeploy chooses: bfloat16 only when the checkpoint says it is."""
    if folder.spec:
        return "int4"
    if settings.dtype != "auto":
        return settings.dtype
    return "bfloat16" if folder.shape.dtype.endswith("bfloat16") else "float16"


def _notes(
    folder: ModelFolder, settings: Conversion, dialect: Dialect, config: WorkspaceConfig
) -> list[Note]:
    shape = folder.shape
    cached = settings.cache is not None
    readers = f"LMDeploy {readers_of(dialect, shape.rope, cached=cached)}"
    texts = []
    if settings.tm_version == "auto":
        older = " and ".join(misfits(V0_5, folder))
        why = f"; config.ini cannot hold {older}" if dialect.layout == "yaml" else ""
        texts.append(f"writing {dialect.file}, which {readers} reads{why}")
    if settings.model_name is None:
        texts.append(f"no --model-name: LMDeploy will add no chat template (`{NO_TEMPLATE}`)")
    if config.inner != shape.inner:
        texts.append(f"feed-forward width padded with zeros from {shape.inner} to {config.inner}")
    warnings = [f"--force: {readers} was not built for {r}" for r in misfits(dialect, folder)]
    windows = {window for window in shape.windows if window and window < shape.max_length}
    if windows:
        warnings.append(
            f"layers attend to the last {min(windows)} tokens; TurboMind ignores that and attends"
            " to all, so longer texts will be answered differently"
        )
    told = cache_notes(dialect.release, settings.cache) if settings.cache else []
    notes = [Note(text) for text in texts] + told
    return notes + [Note(text, "warning") for text in warnings]
