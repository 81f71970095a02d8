"""Whether the files of a workspace are those that its config describes."""

from pathlib import Path

from mindpress.errors import InputError
from mindpress.formats.turbomind import CODES_PER_WORD, TILE
from mindpress.formats.turbomind_cache import MARK
from mindpress.formats.turbomind_config import WorkspaceConfig
from mindpress.formats.turbomind_files import matrices, rank_size, weight_files

CONFIGS = ("config.yaml", "config.ini")
MOST_RANKS = 64
NAMED = 5


def check_config(weights: Path, config: WorkspaceConfig) -> None:
    """Refuse numbers that do not divide as the files are cut."""
    rotary, tp = config.rotary_dim, config.tp
    fits = {
        f"{config.heads} heads are no multiple of {config.kv_heads} kv heads":
            config.heads % config.kv_heads == 0,
        f"`rotary_embedding` {rotary} does not fit heads of {config.head_dim}":
            rotary % 2 == 0 and rotary <= config.head_dim,
        f"{tp} ranks are too many": tp <= MOST_RANKS,
        f"{tp} ranks cannot share the model's widths": _divisible(config),
        f"`group_size` {config.group_size} does not divide the widths": _grouped(config),
    }  # fmt: skip
    for problem, fit in fits.items():
        if not fit:
            raise InputError(f"{weights}: {problem}", hint="the config is damaged")


def _divisible(config: WorkspaceConfig) -> bool:
    shape = config.shape
    widths = (*shape.rows.values(), shape.columns["output"])
    return all(width % config.tp == 0 for width in widths)


def _grouped(config: WorkspaceConfig) -> bool:
    if config.spec is None:
        return True
    unit = TILE if config.layout == "ini" else CODES_PER_WORD
    sides = [rank_size(matrix, config) for matrix in matrices(config)]
    return all(
        inputs % config.group_size == 0 and inputs % unit == 0 and outputs % unit == 0
        for outputs, inputs in sides
    )


def check_files(weights: Path, config: WorkspaceConfig) -> None:
    """Refuse missing files and files of a size that the config does not ask for."""
    expected = weight_files(config)
    missing = [name for name in expected if not (weights / name).is_file()]
    if missing:
        shown = ", ".join(missing[:NAMED]) + (" ..." if missing[NAMED:] else "")
        raise InputError(
            f"{weights}: files are missing ({len(missing)}): {shown}",
            hint="convert the model again",
        )
    for name, size in expected.items():
        found = (weights / name).stat().st_size
        if found != size:
            raise InputError(
                f"{weights / name}: {found} bytes, the config asks for {size}",
                hint="the file is truncated, or the config was edited; convert the model again",
            )


def problems_of(weights: Path, config: WorkspaceConfig) -> tuple[str, ...]:
    """What does not keep a workspace from being read, and should be known."""
    problems = []
    if config.quant_policy and config.cache_bits is None:
        problems.append(
            f"`quant_policy = {config.quant_policy}` means nothing to LMDeploy {config.release}"
        )
    known = weight_files(config).keys() | set(CONFIGS)
    others = sorted(
        file.name for file in weights.iterdir() if file.name not in known and MARK not in file.name
    )
    if others:
        problems.append(f"{len(others)} files are not of this model, for example {others[0]}")
    return tuple(problems)
