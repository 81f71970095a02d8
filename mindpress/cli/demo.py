"""`mindpress demo`: the whole job on the embedded model, told in words."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mindpress.cli.console import Console
from mindpress.cli.options import JsonOpt, OverwriteOpt, QuietOpt
from mindpress.cli.progress import Progress
from mindpress.report.numbers import duration, number, percent, size

if TYPE_CHECKING:
    from mindpress.demo.run import DemoReport

WorkDirOpt = Annotated[Path, typer.Option("--work-dir", help="Folder for what the demo makes.")]
PromptOpt = Annotated[str, typer.Option("--prompt", help="What to ask the small model at the end.")]


def demo(
    work_dir: WorkDirOpt = Path("workspaces/demo"),
    prompt: PromptOpt = "The river was",
    overwrite: OverwriteOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Do the whole job on a small model that is included.

    It quantizes, converts and validates the model, and asks it one question.
    """
    from mindpress.demo.run import run_demo

    console = Console(as_json=json, quiet=quiet)
    with Progress(console) as listener:
        report = run_demo(work_dir, prompt, overwrite=overwrite, listener=listener)
    console.result(report.as_dict())
    show(report, console)


def show(report: "DemoReport", console: Console) -> None:
    """What was done, what it cost, what came out, and what to try next."""
    console.heading("\nA 16-bit model became a 4-bit one, and still works")
    console.table(["", "before", "after"], rows(report))
    console.text(
        "(the embedding stays in 16 bits: half of this model, a few percent of a large one)"
    )
    (text,) = report.validated.datasets
    agreement, divergence = text.top1_agreement, text.kl_divergence
    if agreement is not None and divergence is not None:
        console.text(
            f"\nOn {text.tokens:,} tokens both find the same next token likeliest in "
            f"{percent(agreement)} of the cases (KL divergence {number(divergence)})."
        )
    console.heading(f"\nAsked to go on from “{report.prompt}”, the 4-bit model writes:")
    console.text(f"{report.prompt}{report.answer}")
    console.heading("\nFiles")
    console.pairs(
        {
            "quantized model": str(report.quantized.target),
            "workspace": str(report.converted.target),
            "quantization report": str(report.quantized.target / "report.html"),
            "validation report": str(Path(report.validated.output) / "validation.html"),
        }
    )
    console.heading("\nNext")
    console.text(f"mindpress chat {report.converted.target}")
    console.text("mindpress lite auto-awq YOUR_MODEL")
    console.text(f"\nAll of it took {duration(report.seconds)}.")


def rows(report: "DemoReport") -> list[list[str]]:
    """Before and after, as people read them."""
    quantized, before = report.quantized, report.validated.original
    (text,) = report.validated.datasets
    table = [
        ["size on disk", size(quantized.bytes_before), size(quantized.bytes_after)],
        ["perplexity (lower is better)", number(text.original_perplexity), number(text.perplexity)],
    ]
    if before:
        bits = [number(before.bits_per_weight), number(quantized.bits_per_weight)]
        table.append(["bits per weight, embedding included", *bits])
    return table
