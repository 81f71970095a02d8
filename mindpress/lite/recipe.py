"""What to do to a model, as one frozen value. Cheap to import: no torch."""

from dataclasses import dataclass, field
from typing import Any, Literal

from mindpress.errors import ConfigError

Algorithm = Literal["awq", "gptq", "smooth_quant"]
Format = Literal["auto", "awq", "gptq", "compressed-tensors"]
Rounding = Literal["nearest", "compensated"]
Propagation = Literal["original", "quantized", "asymmetric"]
Propagate = Literal["auto", "original", "quantized", "asymmetric"]
Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float16", "bfloat16"]

USUAL_SWEEPS = 2
AWQ_WIDTHS = (4, 8)
WHOLE_ROW = -1  # as in formats.quantized, which imports torch


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
                raise ConfigError(f"{flag} {value}: must be 1 or more", hint="leave it out")


@dataclass(frozen=True, slots=True)
class Recipe:
    """An algorithm and its settings; saved beside the weights it produced.

    awq smooths: it moves scales between weights and what comes before them. gptq leaves them alone.
    smooth_quant moves them so that activations can be rounded, too: `smooth_quant_recipe`.
    `format` is how the codes are written; auto is the format of the algorithm, where it holds them.
    `search_scale` None is true where awq compensates. `propagate` says whose activations a block is
    calibrated on; auto is asymmetric with compensated rounding and original with nearest. `refine`
    counts sweeps over codes and scales; None is the usual number with compensated rounding.
    `target_bpw` is the mean of bits per weight of the linears, scales and zeros included: where
    `bits` leave room, the most sensitive get more of them.
    """

    model: str
    algorithm: Algorithm = "awq"
    format: Format = "auto"
    bits: int = 4
    group_size: int = 128
    symmetric: bool = False
    search_scale: bool | None = None
    rounding: Rounding = "compensated"
    propagate: Propagate = "auto"
    refine: int | None = None
    target_bpw: float | None = None
    calibration: Calibration = field(default_factory=Calibration)
    device: Device = "auto"
    dtype: Dtype = "auto"
    max_shard_size: str = "5GB"
    revision: str | None = None
    download_dir: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.search_scale and not self.smooths:
            raise ConfigError("--search-scale is of auto-awq alone", hint="use auto-awq")
        if self.sweeps < 0:
            raise ConfigError(
                f"--refine {self.refine}: must be 0 or more", hint="leave it out for 2"
            )
        if self.rounding == "nearest" and (self.sweeps or self.path != "original"):
            flag = f"--refine {self.refine}" if self.sweeps else f"--propagate {self.propagate}"
            raise ConfigError(
                f"{flag} needs --rounding compensated", hint="leave it out, or --rounding nearest"
            )

    @property
    def width(self) -> str:
        """Bits per weight of the linears, for people."""
        if self.target_bpw is None:
            return f"{self.bits} bits"
        return f"{self.bits} to 16 bits, at most {self.target_bpw:g} on average"

    @property
    def smooths(self) -> bool:
        """Whether AWQ's scales are moved between weights."""
        return self.algorithm == "awq"

    @property
    def searches(self) -> bool:
        """Whether the scales, and without compensation the clipping, are searched."""
        if self.search_scale is None:
            return self.smooths and self.rounding == "compensated"
        return self.search_scale

    @property
    def written(self) -> str:
        """The format that is written."""
        if self.format != "auto":
            return self.format
        if self.algorithm == "smooth_quant":
            return "int8"
        fits = self.algorithm != "awq" or (self.bits in AWQ_WIDTHS and self.target_bpw is None)
        return self.algorithm if fits else "compressed-tensors"

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


def smooth_quant_recipe(model: str, calibration: Calibration, **more: Any) -> Recipe:
    """Int8 weights with a scale for each output, and int8 activations with one for each token."""
    return Recipe(
        model,
        algorithm="smooth_quant",
        bits=8,
        group_size=WHOLE_ROW,
        symmetric=True,
        rounding="nearest",
        calibration=calibration,
        **more,
    )
