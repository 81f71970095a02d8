"""What to do to a model, as one frozen value. Cheap to import: no torch."""

from dataclasses import dataclass, field
from typing import Literal

from mindpress.errors import ConfigError

Algorithm = Literal["awq"]
Rounding = Literal["nearest", "compensated"]
Propagation = Literal["original", "quantized", "asymmetric"]
Propagate = Literal["auto", "original", "quantized", "asymmetric"]
Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float16", "bfloat16"]

USUAL_SWEEPS = 2


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
    """An algorithm and its settings; saved beside the weights it produced.

    `propagate` says whose activations a block is calibrated on; auto is asymmetric with
    compensated rounding and original with nearest. `refine` counts sweeps over codes and scales;
    None is the usual number with compensated rounding.
    """

    model: str
    algorithm: Algorithm = "awq"
    bits: int = 4
    group_size: int = 128
    symmetric: bool = False
    search_scale: bool = False
    rounding: Rounding = "nearest"
    propagate: Propagate = "auto"
    refine: int | None = None
    calibration: Calibration = field(default_factory=Calibration)
    device: Device = "auto"
    dtype: Dtype = "auto"
    max_shard_size: str = "5GB"
    revision: str | None = None
    download_dir: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.sweeps < 0:
            raise ConfigError(f"--refine {self.refine}: must be 0 or more")
        if self.rounding == "nearest" and (self.sweeps or self.path != "original"):
            flag = f"--refine {self.refine}" if self.sweeps else f"--propagate {self.propagate}"
            raise ConfigError(f"{flag} needs --rounding compensated")

    @property
    def path(self) -> Propagation:
        """Whose activations a block is calibrated on."""
        if self.propagate != "auto":
            return self.propagate
        return "original" if self.rounding == "nearest" else "asymmetric"

    @property
    def sweeps(self) -> int:
        """How often codes and scales are refined."""
        if self.refine is None:
            return 0 if self.rounding == "nearest" else USUAL_SWEEPS
        return self.refine
