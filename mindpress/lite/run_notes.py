"""What a run says of its settings, beside its figures."""

from mindpress.events import Note
from mindpress.lite.choose import PLAIN
from mindpress.lite.compensated import Compensation
from mindpress.lite.plan import QuantizationPlan
from mindpress.lite.recipe import Recipe
from mindpress.lite.report import QuantizationReport


def compensation_of(recipe: Recipe, tokens: int) -> Compensation | None:
    """How rounding is compensated with so many tokens."""
    if recipe.rounding == "nearest":
        return None
    return Compensation(clip=True, sweeps=recipe.sweeps, tokens=tokens)


def told_few(recipe: Recipe, plan: QuantizationPlan, tokens: int) -> str | None:
    """What to say when there is one sample, or fewer tokens than inputs of some linear."""
    if recipe.calibration.samples == 1:
        return "with one calibration sample layers are judged on the tokens they are calibrated on"
    options = compensation_of(recipe, tokens)
    widest = max(planned.inputs for planned in plan.linears)
    if options is None or tokens >= widest:
        return None
    return (
        f"{tokens:,} calibration tokens are few for {widest:,} inputs of a linear: damping is"
        f" raised to {options.damping_of(widest):.2g}; more --calib-samples give better codes"
    )


def notes_on(recipe: Recipe, report: QuantizationReport) -> list[Note]:
    """On what came out."""
    notes = []
    if not any(layer.method != PLAIN for layer in report.layers):
        notes.append(Note(f"all layers are rounded plainly{_in_vain(recipe)}"))
    if report.mixture and report.linear_bits_per_weight > (recipe.target_bpw or 0):
        words = f"linears have {report.linear_bits_per_weight:.4g} bits per weight, over the target"
        notes.append(Note(f"{words}: layers had to be left in 16 bits", "warning"))
    return notes


def _in_vain(recipe: Recipe) -> str:
    """What helped no layer, and what else there is."""
    tried = [name for name, done in (
        ("smoothing", recipe.smooths), ("compensation", recipe.rounding == "compensated"),
    ) if done]  # fmt: skip
    if not tried:
        return ""
    searches = recipe.searches or not recipe.smooths
    more = "" if searches else "; --search-scale searches for better scales"
    return f": {' and '.join(tried)} helped none of them{more}"
