"""Whether a workspace can hold a model, which version of it does, and how ranks share it."""

from math import lcm

from mindpress.convert.settings import TENSOR_PARALLEL
from mindpress.errors import ConfigError, InputError, UnsupportedModelError
from mindpress.formats.quantized import WHOLE_ROW
from mindpress.formats.turbomind import BITS, CODES_PER_WORD, TILE
from mindpress.formats.turbomind_dialects import V0_2, V0_3, V0_5, V0_6_0, V0_6_3, Dialect
from mindpress.models.shape import ModelShape, Rope
from mindpress.sources.folder import ModelFolder

CANDIDATES = {
    "0.2": (V0_2,),
    "0.3": (V0_3,),
    "0.5": (V0_5,),
    "0.6": (V0_6_0, V0_6_3),
    "auto": (V0_5, V0_6_0, V0_6_3),
}
INT4_GROUP = 128
# The yaml layout pads floats, too, as if they had groups.
FLOAT_GROUP = 128
READERS = {"0.2.6": "0.2", "0.3.0": "0.3", "0.6.0": "0.6", "0.6.3": "0.6.3 and later 0.6"}
CACHE_SINCE = "0.4"  # before, the numbers of `quant_policy` meant something else
ROPE_SINCE = {"dynamic": "0.3", "linear": "0.5.2", "llama3": "0.5.2"}
# What the config of a workspace has keys for; anything else would be lost.
ROPE_PARAMETERS = {
    "rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings",
    "low_freq_factor", "high_freq_factor", "attention_factor", "beta_fast", "beta_slow",
    "partial_rotary_factor",
}  # fmt: skip
ELSEWHERE = "mindpress chat and mindpress validate read the folder as it is"


def check_family(folder: ModelFolder) -> None:
    """Refuse a model that no TurboMind engine computes. UnsupportedModelError says why."""
    shape, architecture = folder.shape, folder.architecture
    obstacle = architecture.turbomind_obstacle
    if obstacle is None and shape.activation not in ("silu", "swish"):
        obstacle = f"its engines have no activation `{shape.activation}`"
    if obstacle is None and shape.biases.mlp:
        obstacle = "its engines have no biases in the feed-forward part"
    if obstacle is None and shape.rotary_dim % 2:
        obstacle = f"its engines rotate pairs of channels, not {shape.rotary_dim}"
    if obstacle:
        raise UnsupportedModelError(
            f"{folder.folder}: a TurboMind workspace cannot hold {architecture.hf_class}:"
            f" {obstacle}",
            hint=ELSEWHERE,
        )


def check_codes(folder: ModelFolder) -> None:
    """Refuse codes that are not int4 in groups, and folders where some linears have none."""
    spec = folder.spec
    if spec is None:
        return
    if spec.bits != BITS:
        raise InputError(
            f"{folder.folder}: {spec.bits}-bit codes; TurboMind holds 4-bit ones",
            hint=f"quantize with `lite auto-awq` in 4 bits, or leave it as it is: {ELSEWHERE}",
        )
    if spec.group_size == WHOLE_ROW:
        raise InputError(
            f"{folder.folder}: one scale for a whole row; a workspace needs groups",
            hint="quantize with --w-group-size 128",
        )
    specs = {
        f"{folder.architecture.layer(layer)}.{linear.name}": folder.spec_of(layer, linear.roles[0])
        for layer in range(folder.shape.layers)
        for linear in folder.architecture.block.linears
    }
    plain = [name for name, own in specs.items() if own is None]
    others = [name for name, own in specs.items() if own not in (None, spec)]
    if others:
        raise InputError(
            f"{folder.folder}: linears have different widths, for example `{others[0]}`; all of a"
            " workspace have one",
            hint=f"quantize without --target-bpw, or leave it as it is: {ELSEWHERE}",
        )
    if plain:
        raise InputError(
            f"{folder.folder}: {len(plain)} linears are left in 16 bits, for example `{plain[0]}`;"
            " a workspace is quantized in all of them or in none",
            hint="quantize without --target-bpw, in groups that fill every input width; layers that"
            " 4 bits ruin need more bits, and " + ELSEWHERE,
        )


def choose_dialect(folder: ModelFolder, version: str, *, force: bool) -> Dialect:
    """The first dialect of `version` that the model fits; with `force` the last that can say it.

    ConfigError names what does not fit.
    """
    candidates = [d for d in CANDIDATES[version] if _sayable(d, folder.shape)]
    for dialect in candidates:
        if not misfits(dialect, folder):
            return dialect
    if candidates and force:
        return candidates[-1]
    reasons = misfits(CANDIDATES[version][-1], folder) or ["heads that do not fill the hidden size"]
    fitting = [d.version for d in CANDIDATES["auto"] if not misfits(d, folder)]
    hint = "--force writes it all the same; no engine was built for it" if candidates else None
    if fitting:
        hint = f"use --tm-version {fitting[0]}"
    raise ConfigError(f"--tm-version {version} cannot hold {' and '.join(reasons)}", hint=hint)


def misfits(dialect: Dialect, folder: ModelFolder) -> list[str]:
    """What of the model no engine of this release was built for."""
    shape, spec = folder.shape, folder.spec
    reasons = []
    if not _sayable(dialect, shape):
        reasons.append(f"{shape.heads} heads of {shape.head_dim} on a hidden size {shape.hidden}")
    if shape.head_dim not in dialect.head_sizes:
        sizes = " or ".join(str(size) for size in dialect.head_sizes)
        reasons.append(f"head size {shape.head_dim} (its engines have {sizes})")
    if spec and spec.group_size != INT4_GROUP:
        reasons.append(f"int4 groups of {spec.group_size} (its engines have {INT4_GROUP})")
    unknown = sorted(shape.rope.parameters.keys() - ROPE_PARAMETERS)
    if shape.rope.kind not in dialect.ropes:
        reasons.append(f"rope type `{shape.rope.kind}` (it knows {', '.join(dialect.ropes)})")
    elif shape.rope.kind != "default" and unknown:
        reasons.append(f"rope parameter `{unknown[0]}`")
    return reasons


def readers_of(dialect: Dialect, rope: Rope, *, cached: bool = False) -> str:
    """The LMDeploy releases that read the config and compute the rope as it says.

    With `cached`, those that also understand what it says of a quantized cache.
    """
    if dialect is V0_5:
        since = ROPE_SINCE.get(rope.kind, "0.1")
        return f"{max(since, CACHE_SINCE) if cached else since} to 0.5"
    return READERS[dialect.release]


def padded_inner(folder: ModelFolder, tp: int, dialect: Dialect) -> int:
    """The feed-forward width that every rank gets whole groups of.

    The yaml layout pads always, the ini layout only what tp does not divide.
    """
    inner, spec = folder.shape.inner, folder.spec
    if dialect.layout == "yaml":
        unit = (spec.group_size if spec else FLOAT_GROUP) * tp
    elif spec:
        unit = lcm(spec.group_size, TILE) * tp
    else:
        unit = FLOAT_GROUP * tp if inner % tp else tp
    return -(-inner // unit) * unit


def check_tp(folder: ModelFolder, tp: int, dialect: Dialect) -> None:
    """Refuse a tensor-parallel degree that cannot divide the model; names those that can."""
    obstacle = _tp_obstacle(folder, tp, dialect)
    if obstacle:
        works = [str(t) for t in TENSOR_PARALLEL if not _tp_obstacle(folder, t, dialect)]
        hint = f"works for this model: --tp {' or '.join(works)}" if works else ELSEWHERE
        raise ConfigError(f"--tp {tp}: {obstacle}", hint=hint)


def _sayable(dialect: Dialect, shape: ModelShape) -> bool:
    """config.ini has no key for the hidden size: it is heads x head size there."""
    return dialect.layout == "yaml" or shape.heads * shape.head_dim == shape.hidden


def _tp_obstacle(folder: ModelFolder, tp: int, dialect: Dialect) -> str | None:
    shape, spec = folder.shape, folder.spec
    if shape.heads % tp or shape.kv_heads % tp:
        return f"{shape.heads} heads and {shape.kv_heads} kv heads cannot be shared equally"
    if dialect.layout == "yaml" and shape.hidden % tp:
        return f"the hidden size {shape.hidden} cannot be shared equally"
    if spec is None:
        return None
    queries, keys = shape.rows["query"] // tp, shape.rows["key"] // tp
    if queries % spec.group_size:
        return f"{queries} inputs of the attention output are no whole groups of {spec.group_size}"
    unit = TILE if dialect.layout == "ini" else CODES_PER_WORD
    widths = (queries + 2 * keys, shape.hidden, *((queries,) if dialect.layout == "ini" else ()))
    uneven = next((width for width in widths if width % unit), None)
    return f"a width of {uneven} channels is no multiple of {unit}" if uneven else None
