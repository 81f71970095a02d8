"""README.md of a quantized folder: the model card that the Hub and people read."""

from pathlib import Path
from shlex import quote

from huggingface_hub import ModelCardData

from mindpress.formats.awq import COMMON_BITS
from mindpress.lite.recipe import Recipe
from mindpress.lite.report import QuantizationReport

COMMAND = "mindpress lite auto_awq"
LMDEPLOY_GROUP = 128


def model_card(report: QuantizationReport) -> str:
    """Markdown with the Hub's metadata; names base model, method, settings and outcome."""
    recipe = report.recipe
    base = (
        recipe.model if recipe.model.count("/") == 1 and not Path(recipe.model).exists() else None
    )
    data = ModelCardData(
        base_model=base,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["awq", f"{recipe.bits}-bit", "mindpress"],
    )
    name = Path(recipe.model).name
    calibration = recipe.calibration
    return f"""---
{data.to_yaml()}
---

# {name}, {recipe.bits}-bit AWQ

{name} with its linear layers in {recipe.bits}-bit codes, made by mindpress \
{report.versions["mindpress"]}:

    {_command(report)}

| | |
|---|---|
| format | AutoAWQ `gemm`, group {recipe.group_size}, \
{"symmetric" if recipe.symmetric else "asymmetric"} |
| size | {report.bytes_before / 2**20:.1f} MiB before, {report.bytes_after / 2**20:.1f} MiB now |
| bits per weight | {report.bits_per_weight:.2f} |
| calibration | {calibration.dataset}, {calibration.samples} samples of \
{report.calibration_length} tokens, seed {calibration.seed} |
| mean output error of a layer | {report.mean_error:.3%} \
(plain rounding {report.mean_plain_error:.3%}) |

Settings and errors of every layer are in `report.json` and `report.html`.
Loaders: {_loaders(recipe)}.
"""


def _loaders(recipe: Recipe) -> str:
    if recipe.bits != COMMON_BITS:
        return "vLLM and mindpress itself"
    lmdeploy = "LMDeploy, " if recipe.group_size == LMDEPLOY_GROUP else ""
    return f"vLLM, {lmdeploy}transformers (with its AWQ kernels installed) and mindpress itself"


def _command(report: QuantizationReport) -> str:
    recipe, calibration = report.recipe, report.recipe.calibration
    flags = [
        f"--calib-dataset {quote(calibration.dataset)}",
        f"--calib-samples {calibration.samples}",
        f"--calib-seqlen {calibration.length}",
        f"--w-bits {recipe.bits}",
        f"--w-group-size {recipe.group_size}",
        f"--search-scale {recipe.search_scale}",
        f"--rounding {recipe.rounding}",
        f"--propagate {recipe.path}",
        f"--refine {recipe.sweeps}",
        f"--batch-size {calibration.batch_size}",
        f"--dtype {recipe.dtype}",
        f"--seed {calibration.seed}",
    ]
    if recipe.symmetric:
        flags.append("--w-sym")
    return " ".join([COMMAND, quote(recipe.model), *flags])
