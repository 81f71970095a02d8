"""What to quantize and to calibrate a tiny model with: whole runs, but on few short samples."""

from pathlib import Path
from typing import Any

from mindpress.lite.calibration import CalibrationRun
from mindpress.lite.recipe import Calibration, Recipe

FEW = Calibration(dataset="excerpt", samples=5, length=48, batch_size=2)
FEW_LONGER = Calibration(dataset="excerpt", samples=6, length=64, batch_size=2)


def run_of(model: Path, **changes: Any) -> CalibrationRun:
    return CalibrationRun(str(model), **({"calibration": FEW} | changes))


def recipe(model: Path, **changes: Any) -> Recipe:
    settings = {
        "group_size": 32, "search_scale": True, "rounding": "nearest", "calibration": FEW_LONGER,
    } | changes  # fmt: skip
    return Recipe(str(model), **settings)
