"""What to calibrate and with what, as one frozen value. Cheap to import: no torch."""

from dataclasses import dataclass, field

from mindpress.lite.recipe import Calibration, Device


@dataclass(frozen=True, slots=True)
class CalibrationRun:
    """A model and the text it is shown.

    With `cache_only`, keys and values are recorded and linears are not. With `clamp`, NaN
    activations count as 0 and infinite ones as the largest float16, instead of ending the run.
    """

    model: str
    calibration: Calibration = field(default_factory=Calibration)
    cache_only: bool = False
    clamp: bool = False
    device: Device = "auto"
    revision: str | None = None
    download_dir: str | None = None
    trust_remote_code: bool = False
