"""What `benchmarks.quality` compares: plain rounding, variants of mindpress, and rivals."""

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quality_process import Failed

RIVALS = Path(__file__).parent / "rivals"
SAMPLES, LENGTH = 128, 256
CALIBRATION = f"--calib-samples {SAMPLES} --calib-seqlen {LENGTH} --batch-size 8".split()
NEAREST = ("--rounding", "nearest")


@dataclass(frozen=True, slots=True)
class Place:
    """One model with the calibration of one seed, and where the output goes."""

    model: Path
    train: Path
    seed: int
    tokens: Path
    target: Path


@dataclass(frozen=True, slots=True)
class Plain:
    """Rounding to nearest; no calibration, so the same for every seed."""

    name: str
    flags: tuple[str, ...] = ()
    seeded: bool = False

    @property
    def shown(self) -> str:
        """The command with names for what changes."""
        return " ".join(["python -m benchmarks.quality_plain MODEL TARGET", *self.flags])

    def command(self, place: Place) -> list[str]:
        """The command that writes `place.target`."""
        module = [sys.executable, "-m", "benchmarks.quality_plain"]
        return [*module, str(place.model), str(place.target), *self.flags]


@dataclass(frozen=True, slots=True)
class Ours:
    """A variant of a command of `mindpress lite`."""

    name: str
    flags: tuple[str, ...] = ()
    does: str = "auto-awq"
    seeded: bool = True

    @property
    def shown(self) -> str:
        """The command with names for what changes."""
        fixed = "--work-dir TARGET --calib-dataset TRAIN --seed SEED"
        return " ".join([f"mindpress lite {self.does} MODEL", fixed, *CALIBRATION, *self.flags])

    def command(self, place: Place) -> list[str]:
        """The command that writes `place.target`."""
        named = ["--work-dir", str(place.target), "--calib-dataset", str(place.train)]
        return [sys.executable, "-m", "mindpress", "lite", self.does, str(place.model), *named,
                "--seed", str(place.seed), *CALIBRATION, *self.flags]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rival:
    """A method of another program, run by a driver with the Python of a virtual environment.

    `environment` names the files: `rivals/ENVIRONMENT_quantize.py` and `-requirements.txt`. Without
    `python` only what it wrote in an earlier run is used.
    """

    name: str
    environment: str
    flags: tuple[str, ...] = ()
    python: str | None = None
    seeded: bool = True

    @property
    def shown(self) -> str:
        """The command with names for what changes."""
        driver = f"PYTHON benchmarks/rivals/{self.environment}_quantize.py"
        return " ".join([driver, "MODEL TOKENS TARGET", *self.flags])

    def command(self, place: Place) -> list[str]:
        """The command that writes `place.target`."""
        if self.python is None:
            raise Failed("no earlier result, and no Python given to make one")
        driver = RIVALS / f"{self.environment}_quantize.py"
        paths = place.model, place.tokens, place.target
        return [self.python, str(driver), *map(str, paths), *self.flags]


Subject = Plain | Ours | Rival

PLAIN = "plain rounding"
FOUR_BITS = (
    Plain(PLAIN),
    Ours("mindpress"),
    Ours("mindpress, nearest, search", (*NEAREST, "--search-scale")),
    Ours("mindpress, no scales", ("--search-scale", "False")),
)
UNREFINED = ("--search-scale", "False", "--refine", "0")
MIXED = (Ours("mindpress, 4.5 bits", ("--target-bpw", "4.5")),)
VARIANTS = (
    Ours("mindpress, nearest", NEAREST),
    Ours("mindpress, no scales, unrefined, original", (*UNREFINED, "--propagate", "original")),
    Ours("mindpress, no scales, unrefined, quantized", (*UNREFINED, "--propagate", "quantized")),
    Ours("mindpress, no scales, unrefined, asymmetric", (*UNREFINED, "--propagate", "asymmetric")),
)
THREE_BITS = (
    Plain("plain rounding, 3 bits", ("--bits", "3")),
    Ours("mindpress, 3 bits", ("--w-bits", "3")),
)
EIGHT_BITS = (Ours("mindpress smooth-quant, W8A8", does="smooth-quant"),)
# The cheapest first, so that an interrupted run has most of them.
OTHERS = (
    Rival("GPTQModel GPTQ", "gptqmodel"),
    Rival("llm-compressor GPTQ", "llmcompressor", ("--method", "gptq")),
    Rival("llm-compressor AWQ", "llmcompressor", ("--method", "awq")),
    Rival("auto-round", "autoround"),
    Rival("AutoAWQ", "autoawq"),
)
AS_SHIPPED = (Rival("AutoAWQ, as shipped", "autoawq", ("--as-shipped",)),)
ENVIRONMENTS = sorted({rival.environment for rival in OTHERS})
EVERY = (*FOUR_BITS, *MIXED, *VARIANTS, *THREE_BITS, *EIGHT_BITS, *OTHERS, *AS_SHIPPED)
NAMES = [subject.name for subject in EVERY]


def chosen(pythons: dict[str, str | None], variants: bool, only: list[str] | None) -> list[Subject]:
    """The subjects of a run, in the order in which they are run.

    `pythons`: environments of the rivals to compare with; None for results of earlier runs only.
    """
    rivals = [
        Rival(rival.name, rival.environment, rival.flags, pythons[rival.environment])
        for rival in (*OTHERS, *(AS_SHIPPED if variants or only else ()))
        if rival.environment in pythons
    ]
    more = VARIANTS if variants or only else ()
    ours = (*FOUR_BITS, *MIXED, *more, *THREE_BITS, *EIGHT_BITS)
    every: list[Subject] = [*rivals, *ours]
    return [subject for subject in every if not only or subject.name in only]
