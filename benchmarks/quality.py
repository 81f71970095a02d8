"""Loss, time and memory of mindpress, plain rounding and four rivals on the same tokens.

    python -m benchmarks.quality MODEL [MODEL ...] --train TRAIN.txt --test TEST.txt \\
        --scratch DIR --rival autoawq=PYTHON --rival autoround=PYTHON \\
        --rival gptqmodel=PYTHON --rival llmcompressor=PYTHON

KL is the mean divergence of next-token distributions from the original over windows of 256 tokens
of the test text, evenly spread, computed by `mindpress.engine` for every output alike. Seeds choose
the calibration samples. Each method is a process of its own, on one thread; times are wall and CPU
seconds of the whole process, imports included (`quantize_*_seconds` of rivals are without), and
peak memory is its resident one.

Every result stays in the scratch folder and is used again: an interrupted run goes on where it
was, and what has changed is measured with `--redo NAME` (`--redo ours`: all but the rivals).
`--rival NAME` without a Python takes what an earlier run left there. With all four rivals and no
`--only` the figures are saved as `results/quality.json`, otherwise as `results/rounding.json`.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from safetensors.torch import save_file

from benchmarks.machine import save
from benchmarks.quality_process import Failed, measured
from benchmarks.quality_score import score, windows_of
from benchmarks.quality_subjects import (
    ENVIRONMENTS,
    LENGTH,
    NAMES,
    SAMPLES,
    Place,
    Rival,
    Subject,
    chosen,
)
from mindpress.calib.datasets import calibration_tokens
from mindpress.checkpoint.companions import load_tokenizer
from mindpress.errors import MindpressError

Row = dict[str, Any]


def place_of(subject: Subject, model: Path, seed: int, args: argparse.Namespace) -> Place:
    """Where a result is kept; the calibration tokens of the seed are there, too."""
    calibration = args.scratch / model.name / f"seed-{seed}"
    tokens = calibration / "tokens.safetensors"
    if not tokens.exists():
        calibration.mkdir(parents=True, exist_ok=True)
        drawn = calibration_tokens(str(args.train), load_tokenizer(model), SAMPLES, LENGTH, seed)
        save_file({"tokens": drawn}, tokens)
    slug = subject.name.replace(",", "").replace(" ", "-").lower()
    folder = calibration if subject.seeded else args.scratch / model.name
    return Place(model, args.train, seed, tokens, folder / slug / "output")


def quantized(subject: Subject, place: Place) -> Row:
    """Figures of the process that wrote the output, now or in an earlier run."""
    folder = place.target.parent
    kept = folder / "run.json"
    if not kept.exists():
        command, log = subject.command(place), folder / "run.log"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        figures = measured(command, log)
        kept.write_text(json.dumps(figures | (told(log) if isinstance(subject, Rival) else {})))
    return json.loads(kept.read_text())


def told(log: Path) -> Row:
    """The last line that is JSON: what a driver says of itself."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line[:1] == "{"]
    return json.loads(lines[-1])


def row(subject: Subject, place: Place, args: argparse.Namespace) -> Row:
    """All figures of one output."""
    kept = place.target.parent / f"score-{args.windows}.json"
    run = quantized(subject, place)
    if not kept.exists():
        windows = windows_of(place.model, args.test, LENGTH, args.windows)
        kept.write_text(json.dumps(score(place.model, place.target, windows)))
    return json.loads(kept.read_text()) | run


def add(about: Row, subject: Subject, place: Place, args: argparse.Namespace) -> None:
    """Add the figures of one output to what is known of its subject, or why there are none."""
    which = {"model": place.model.name, "seed": place.seed if subject.seeded else None}
    try:
        found = row(subject, place, args)
    except (Failed, MindpressError) as error:
        about.setdefault("missing", []).append({**which, "reason": str(error)})
        print(f"{subject.name}: {which}: {error}; see {place.target.parent}", file=sys.stderr)
        return
    print(f"{subject.name}: {which}: {found}", file=sys.stderr, flush=True)
    about |= {"versions": found.pop("versions")} if "versions" in found else {}
    about.setdefault(which.pop("model"), {"seeds": []})["seeds"].append(which | found)


def mean(rows: list[Row]) -> Row:
    """Of every number over the seeds."""
    names = [name for name, value in rows[0].items() if isinstance(value, int | float)]
    names = [name for name in names if name not in ("seed", "tokens")]
    return {name: round(fmean(row[name] for row in rows), 7) for name in names}


def compared(subjects: list[Subject], args: argparse.Namespace) -> Row:
    """Every subject: how it was run, and on each model its means over the seeds and its figures.

    All of the first seed is done first.
    """
    found: Row = {subject.name: {"command": subject.shown} for subject in subjects}
    for seed in args.seeds:
        for subject in subjects:
            for model in args.models:
                if subject.seeded or seed == args.seeds[0]:
                    add(found[subject.name], subject, place_of(subject, model, seed, args), args)
    for about in found.values():
        for model in args.models:
            if model.name in about:
                about[model.name] = {"mean": mean(about[model.name]["seeds"]), **about[model.name]}
    return found


def forget(subjects: list[Subject], args: argparse.Namespace) -> None:
    """Remove earlier results of what is to be measured again."""
    for subject in subjects:
        ours = "ours" in args.redo and not isinstance(subject, Rival)
        if ours or subject.name in args.redo:
            for model in args.models:
                for seed in args.seeds:
                    folder = place_of(subject, model, seed, args).target.parent
                    shutil.rmtree(folder, ignore_errors=True)


def rival(text: str) -> tuple[str, str | None]:
    """`NAME=PYTHON` or `NAME`."""
    name, _, python = text.partition("=")
    if name not in ENVIRONMENTS:
        raise argparse.ArgumentTypeError(f"{name}: choose from {', '.join(ENVIRONMENTS)}")
    return name, python or None


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--rival", type=rival, action="append", default=[], help="NAME[=PYTHON]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of calibrations")
    parser.add_argument("--windows", type=int, default=600, help="of the test text, about")
    parser.add_argument("--only", nargs="+", choices=NAMES, help="these subjects")
    parser.add_argument("--all-variants", action="store_true", help="and more ways to propagate")
    parser.add_argument("--redo", nargs="+", choices=[*NAMES, "ours"], default=[])
    return parser.parse_args()


def main() -> None:
    args = parse()
    pythons = dict(args.rival)
    subjects = chosen(pythons, args.all_variants, args.only)
    forget(subjects, args)
    figures = compared(subjects, args)
    whole = set(pythons) == set(ENVIRONMENTS) and not args.only
    rivals = " ".join(f"--rival {name}=PYTHON" for name in pythons)
    seeds = " ".join(map(str, args.seeds))
    command = f"python -m benchmarks.quality MODELS --train TRAIN --test TEST --seeds {seeds}"
    command += f" --windows {args.windows}"
    about = {"samples": SAMPLES, "length": LENGTH, "seeds": args.seeds, "windows": args.windows}
    save(
        "quality" if whole else "rounding",
        " ".join([command, rivals, *["--all-variants"] * args.all_variants]).strip(),
        {**about, "subjects": figures},
    )


if __name__ == "__main__":
    main()
