"""What to do to a model, as one frozen value. Cheap to import: no torch."""

from dataclasses import dataclass, field
from typing import Literal

from mindpress.errors import ConfigError

Algorithm = Literal["awq"]
Device = Literal["auto", "cpu", "cuda"]
Rounding = Literal["nearest", "compensated"]
Propagate = Literal["auto", "original", "quantized", "asymmetric"]
Dtype = Literal["auto", "float16", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Which text the algorithm sees. `length` is in tokens per sample.

    `batch_size` bounds memory: samples that run through a block at once.
    """

    dataset: str = "wikitext2"
    samples: int = 128
    length: int = 2048
    seed: int = 0
    batch_size: int = 1

    def __post_init__(self) -> None:
        for flag, value in (
            ("--calib-samples", self.samples),
            ("--calib-seqlen", self.length),
            ("--batch-size", self.batch_size),
        ):
            if value < 1:
                raise ConfigError(f"{flag} {value}: must be 1 or more")


@dataclass(frozen=True, slots=True)
class Recipe:
    """An algorithm and its settings; saved beside the weights it produced."""

    model: str
    algorithm: Algorithm = "awq"
    bits: int = 4
    group_size: int = 128
    symmetric: bool = False
    search_scale: bool = False
    rounding: Rounding = "nearest"
    propagate: Propagate = "auto"
    refine: int = 0
    calibration: Calibration = field(default_factory=Calibration)
    device: Device = "auto"
    dtype: Dtype = "auto"
    max_shard_size: str = "5GB"
    revision: str | None = None
    download_dir: str | None = None
    trust_remote_code: bool = False
