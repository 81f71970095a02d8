"""README.md of a quantized folder: the model card that the Hub and people read."""

from pathlib import Path
from shlex import quote

from huggingface_hub import ModelCardData

from mindpress.lite.recipe import WHOLE_ROW, Recipe
from mindpress.lite.report import QuantizationReport, left_blocks

COMMANDS = {"awq": "auto_awq", "gptq": "auto_gptq", "smooth_quant": "smooth_quant"}
NAMES = {"awq": "AWQ", "gptq": "GPTQ", "smooth_quant": "SmoothQuant (W8A8)"}


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
        tags=sorted({recipe.algorithm, recipe.written, *_width_tag(recipe), "mindpress"}),
    )
    name = Path(recipe.model).name
    calibration = recipe.calibration
    return f"""---
{data.to_yaml()}
---

# {name}, {NAMES[recipe.algorithm]} in {report.width}

{name} with its linear layers in codes of {report.width}, made by mindpress \
{report.versions["mindpress"]}:

    {_command(report)}

| | |
|---|---|
| format | {report.format}, {_groups(recipe)}, \
{"symmetric" if recipe.symmetric else "asymmetric"} |
| size | {report.bytes_before / 2**20:.1f} MiB before, {report.bytes_after / 2**20:.1f} MiB now |
| bits per weight | {report.bits_per_weight:.2f}, of linears alone \
{report.linear_bits_per_weight:.2f} |
| calibration | {calibration.dataset}, {calibration.samples} samples of \
{report.calibration_length} tokens, seed {calibration.seed} |
{_left(report)}{_mixed(report)}| mean output error of a layer | {report.mean_error:.3%} \
(plain rounding {report.mean_plain_error:.3%}) |

Settings and errors of every layer are in `report.json` and `report.html`.
Loaders: {", ".join(report.readers)} and mindpress itself.
"""


def _command(report: QuantizationReport) -> str:
    recipe, calibration = report.recipe, report.recipe.calibration
    flags = [
        f"--calib-dataset {quote(calibration.dataset)}",
        f"--calib-samples {calibration.samples}",
        f"--calib-seqlen {calibration.length}",
        *(_rounding(recipe) if recipe.algorithm != "smooth_quant" else []),
        f"--batch-size {calibration.batch_size}",
        f"--dtype {recipe.dtype}",
        f"--seed {calibration.seed}",
    ]
    return " ".join([f"mindpress lite {COMMANDS[recipe.algorithm]}", quote(recipe.model), *flags])


def _rounding(recipe: Recipe) -> list[str]:
    return [
        f"--w-bits {recipe.bits}",
        f"--w-group-size {recipe.group_size}",
        f"--w-sym {recipe.symmetric}",
        f"--format {recipe.written}",
        *([f"--search-scale {recipe.searches}"] if recipe.smooths else []),
        f"--rounding {recipe.rounding}",
        f"--propagate {recipe.path}",
        f"--refine {recipe.sweeps}",
        *([f"--target-bpw {recipe.target_bpw:g}"] if recipe.target_bpw else []),
    ]


def _left(report: QuantizationReport) -> str:
    left = left_blocks(report.layers)
    return f"| layers left in 16 bits | {', '.join(map(str, left))} (from 0) |\n" if left else ""


def _mixed(report: QuantizationReport) -> str:
    if report.mixture is None:
        return ""
    sites = sum(map(len, report.mixture.widths))
    return f"| bits of the {sites} groups of linears | {report.mixture.told} |\n"


def _width_tag(recipe: Recipe) -> list[str]:
    return [f"{recipe.bits}-bit"] if recipe.target_bpw is None else ["mixed-precision"]


def _groups(recipe: Recipe) -> str:
    size = recipe.group_size
    return "a scale for each output" if size == WHOLE_ROW else f"group {size}"
