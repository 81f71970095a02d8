"""The demo's four steps, each the call that its command makes."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mindpress.checkpoint.staging import check_target
from mindpress.convert.convert import ConversionReport, convert_model
from mindpress.convert.settings import Conversion
from mindpress.engine.chat import open_chat
from mindpress.engine.config import GenerationConfig
from mindpress.engine.settings import Validation
from mindpress.engine.stream import AnswerStats
from mindpress.engine.validate import validate
from mindpress.engine.validation_report import ValidationReport
from mindpress.events import Listener, ignore
from mindpress.lite.quantize import quantize_model
from mindpress.lite.recipe import Calibration, Recipe
from mindpress.lite.report import QuantizationReport

MODEL = Path(__file__).parent / "tiny-llama"
DATASET = "excerpt"  # of WikiText-2, beside the model
SAMPLES, LENGTH, WINDOWS = 32, 256, 64
ANSWER = GenerationConfig(max_new_tokens=48, seed=0)
QUANTIZED, WORKSPACE, VALIDATION = "tiny-llama-awq-w4", "workspace", "validation"


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What each step gave, and where the files are."""

    folder: Path
    quantized: QuantizationReport
    converted: ConversionReport
    validated: ValidationReport
    prompt: str
    answer: str
    stats: AnswerStats | None
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "folder": str(self.folder),
            "quantized": self.quantized.as_dict(),
            "converted": self.converted.as_dict(),
            "validated": self.validated.as_dict(),
            "prompt": self.prompt,
            "answer": self.answer,
            "stats": asdict(self.stats) if self.stats else None,
            "seconds": self.seconds,
        }


def run_demo(
    folder: Path, prompt: str, *, overwrite: bool = False, listener: Listener = ignore
) -> DemoReport:
    """Quantize the embedded model to 4 bits, convert it to a workspace, measure the workspace
    against the original on the embedded text, and let it answer `prompt`.

    Writes three folders into `folder`. Raises ConfigError when one of them holds something.
    """
    began = time.monotonic()
    quantized, workspace, validation = (
        folder / name for name in (QUANTIZED, WORKSPACE, VALIDATION)
    )
    check_target(quantized, "model", overwrite=overwrite)
    check_target(workspace, "workspace", overwrite=overwrite)
    check_target(validation, "validation", overwrite=overwrite)
    calibration = Calibration(DATASET, SAMPLES, LENGTH)
    recipe = Recipe(str(MODEL), calibration=calibration)
    conversion = Conversion(str(quantized), workspace, model_name="base", overwrite=overwrite)
    check = Validation(
        str(workspace),
        str(MODEL),
        datasets=(DATASET,),
        length=LENGTH,
        limit=WINDOWS,
        caches=False,
        output=validation,
    )
    quantization = quantize_model(recipe, quantized, overwrite=overwrite, listener=listener)
    converted = convert_model(conversion, listener)
    validated = validate(check, listener)
    session = open_chat(workspace, listener=listener)
    answer = "".join(session.ask(prompt, ANSWER))
    return DemoReport(
        folder, quantization, converted, validated, prompt, answer, session.stats,
        time.monotonic() - began,
    )  # fmt: skip
