"""What the commands that quantize a model do, and what they print."""

from pathlib import Path

from mindpress.cli.console import Console
from mindpress.cli.memory_words import at_most
from mindpress.cli.progress import Progress
from mindpress.lite.recipe import Recipe
from mindpress.report.numbers import duration, number, percent, size


def show_plan(recipe: Recipe, target: Path, overwrite: bool, console: Console) -> None:
    """Print what would be done."""
    from mindpress.lite.quantize import check_request

    found = check_request(recipe, target, overwrite=overwrite).plan
    console.result({**found.as_dict(), "target": target})
    console.heading(f"Plan: {recipe.model} -> {target} ({recipe.width}); nothing was written")
    console.pairs(
        {
            "family": found.source.architecture.hf_class,
            "format": f"{found.layout.label}, for {', '.join(found.readers)}",
            "size": f"{size(found.bytes_before)} -> {size(found.bytes_after)}",
            "bits per weight": f"{number(found.bits_per_weight)}, of linears alone"
            f" {number(found.linear_bits_per_weight)}",
            "peak memory": at_most(found.peak_memory),
            "hidden states": f"{size(found.hidden_bytes)} of that",
            "calibration": f"{recipe.calibration.samples} samples of {found.length} tokens",
        }
    )
    console.text()
    widths = " or ".join(map(str, found.widths))
    console.table(
        ["linear of each layer", "inputs", "outputs", "bits"],
        [
            [p.linear.name, str(p.inputs), str(p.outputs), "16" if p.obstacle else widths]
            for p in found.linears
        ],
    )
    for note in found.notes:
        console.say(f"note: {note}")


def run(recipe: Recipe, target: Path, overwrite: bool, console: Console) -> None:
    """Do it, and print what came out."""
    from mindpress.lite.quantize import quantize_model

    with Progress(console) as listener:
        report = quantize_model(recipe, target, overwrite=overwrite, listener=listener)
    console.result(report.as_dict())
    share = report.bytes_after / report.bytes_before
    console.heading(f"Quantized {recipe.model} to {report.width}")
    console.pairs(
        {
            "folder": str(report.target),
            "format": f"{report.format}, for {', '.join(report.readers)}",
            "size": f"{size(report.bytes_before)} -> {size(report.bytes_after)} "
            f"({percent(share)} of the original)",
            "bits per weight": f"{number(report.bits_per_weight)}, of linears alone"
            f" {number(report.linear_bits_per_weight)}",
            **({"bits of the parts": report.mixture.told} if report.mixture else {}),
            "error of a layer": f"{number(report.mean_error)} "
            f"(plain rounding {number(report.mean_plain_error)})",
            "time": duration(report.seconds),
            "peak memory": size(report.peak_memory_bytes),
            "report": str(report.target / "report.html"),
        }
    )
    console.text(f"\nNext: mindpress validate {report.target} --against {recipe.model}")
