"""The JSON header of a calibration run's statistics: what was calibrated with what."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from mindpress.checkpoint.reader import read_json
from mindpress.errors import InputError
from mindpress.models.shape import MOST_LAYERS
from mindpress.models.values import LARGEST_DIMENSION

HEADER = "statistics.json"
CHANNEL_NAMES = ("absmax", "absmean", "min", "max", "mean")
RANGE_NAMES = ("min", "max", "absmax")
# Larger ones are damage; tensors are expected by them before the file is looked at.
LARGEST = {
    "layers": MOST_LAYERS,
    "kv_heads": 4096,
    "head_dim": 4096,
    "samples": LARGEST_DIMENSION,
    "length": LARGEST_DIMENSION,
}
AGAIN = "make them again: mindpress lite calibrate kv MODEL"


@dataclass(frozen=True, slots=True)
class StatisticsHeader:
    """What was calibrated with what.

    `model` is the folder or Hub id as it was given, `signature` that of
    `sources.signature`, `length` in tokens per sample. `linears` are input and output channels
    of every watched linear, none after `calibrate kv`. `clamped` are the layers in which NaN or
    infinite values were replaced. `sha256` is of the tensors' file.
    """

    model: str
    signature: str
    family: str
    layers: int
    kv_heads: int
    head_dim: int
    dataset: str
    samples: int
    length: int
    seed: int
    linears: Mapping[str, tuple[int, int]]
    clamped: tuple[int, ...]
    versions: Mapping[str, str]
    sha256: str = ""

    @property
    def tokens(self) -> int:
        """Tokens that were seen."""
        return self.samples * self.length

    @property
    def origin(self) -> dict[str, str]:
        """Where scales made from these statistics come from, for people."""
        return {
            "model": self.model,
            "dataset": self.dataset,
            "samples": str(self.samples),
            "length": str(self.length),
            "seed": str(self.seed),
            "mindpress": self.versions["mindpress"],
        }

    def layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensors of one layer, named relative to it."""
        shapes: dict[str, tuple[int, ...]] = {}
        for linear, (inputs, outputs) in self.linears.items():
            shapes |= {f"{linear}.input.{name}": (inputs,) for name in CHANNEL_NAMES}
            shapes |= {f"{linear}.output.{name}": (outputs,) for name in CHANNEL_NAMES}
        size = (self.kv_heads, self.head_dim)
        return shapes | {f"{p}.{name}": size for p in ("keys", "values") for name in RANGE_NAMES}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the file."""
        layer = self.layer_shapes()
        return {
            f"layers.{index}.{name}": size
            for index in range(self.layers)
            for name, size in layer.items()
        }


def read_header(folder: Path) -> StatisticsHeader:
    """The header alone; InputError names file and key."""
    file = folder / HEADER
    if not file.is_file():
        if (folder / "key_stats.pth").is_file():
            raise InputError(f"{folder}: key_stats.pth is a pickle, which can run code; it is not"
                             " read", hint=AGAIN)  # fmt: skip
        raise InputError(f"{file}: no such file", hint=AGAIN)
    raw = read_json(file)
    for field in fields(StatisticsHeader):
        if not _fits(field.name, raw.get(field.name)):
            raise InputError(
                f"{file}: `{field.name}` is {raw.get(field.name)!r}; it is no header of statistics",
                hint=AGAIN,
            )
    known = {field.name: raw[field.name] for field in fields(StatisticsHeader)}
    known["linears"] = {name: tuple(widths) for name, widths in raw["linears"].items()}
    return StatisticsHeader(**{**known, "clamped": tuple(raw["clamped"])})


def _fits(name: str, value: object) -> bool:
    """Whether a value of the JSON can be that field of the header."""
    if name in LARGEST:
        return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST[name]
    if name == "seed":
        return isinstance(value, int)
    if name == "clamped":
        return isinstance(value, list) and all(map(_is_count, value))
    if name == "versions":
        return isinstance(value, dict) and isinstance(value.get("mindpress"), str)
    if name == "linears":
        return isinstance(value, dict) and len(value) < 100 and all(map(_is_pair, value.values()))
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(_is_count(width) and width <= LARGEST_DIMENSION for width in value)
    )
