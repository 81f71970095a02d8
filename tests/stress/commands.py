"""The commands that are put under stress, each on the smallest input that makes it do all it does.

Another command is another entry of COMMANDS; `older` makes an output that --overwrite replaces.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.tiny_models import save_tiny

SENTENCE = (
    "The river ran past the mill and the old bridge, and number {} was written on its stone. "
)
EVALUATIONS = ("validation.json", "compare.json")
# What an evaluation measures, and where its report was written.
OTHERWISE = ("prefill", "decode", "peak_memory", "scoring_memory", "seconds", "output")
SHORT = ["--calib-samples", "3", "--calib-seqlen", "16"]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the commands read; made once for all of them."""

    model: Path
    text: Path
    codes: Path


def calibrated(name: str, *options: str) -> Callable[[Inputs, Path], list[str]]:
    """A command of `lite`; another seed is another output."""

    def arguments(inputs: Inputs, target: Path) -> list[str]:
        return ["lite", name, str(inputs.model), "--work-dir", str(target), *SHORT,
                "--calib-dataset", str(inputs.text), *options]  # fmt: skip

    return arguments


def converted(*options: str, codes: bool = False) -> Callable[[Inputs, Path], list[str]]:
    """A conversion of the model in floats, or of one in codes."""

    def arguments(inputs: Inputs, target: Path) -> list[str]:
        source = inputs.codes if codes else inputs.model
        more = ["--calib", str(inputs.text), *SHORT] if "--kv-bits" in options else []
        return ["convert", str(source), "--dst-path", str(target), *options, *more]

    return arguments


def validated(inputs: Inputs, target: Path) -> list[str]:
    """The model in codes beside the one in floats."""
    return ["validate", str(inputs.codes), *_scored(inputs, target)]


def compared(inputs: Inputs, target: Path) -> list[str]:
    """Both beside the one in floats."""
    return ["compare", str(inputs.codes), str(inputs.model), *_scored(inputs, target)]


def _scored(inputs: Inputs, target: Path) -> list[str]:
    return ["--against", str(inputs.model), "--dataset", str(inputs.text), "--seqlen", "32",
            "--limit", "6", "-o", str(target)]  # fmt: skip


COMMANDS: dict[str, Callable[[Inputs, Path], list[str]]] = {
    "auto-awq": calibrated("auto-awq"),
    "auto-awq nearest": calibrated("auto-awq", "--rounding", "nearest", "--search-scale", "True"),
    "auto-awq mixed": calibrated("auto-awq", "--target-bpw", "6.5"),
    "auto-gptq": calibrated("auto-gptq", "--max-shard-size", "1MB"),
    "smooth-quant": calibrated("smooth-quant"),
    "calibrate": calibrated("calibrate"),
    "convert": converted("--tp", "2"),
    "convert codes": converted(codes=True),
    "convert with a cache": converted("--kv-bits", "8"),
    "validate": validated,
    "compare": compared,
}


def make_inputs(folder: Path, quantize: Callable[[list[str]], None]) -> Inputs:
    """Write a model, a calibration text and, with `quantize`, the model in codes."""
    text = folder / "text.txt"
    text.write_text("\n".join(SENTENCE.format(number) for number in range(200)), encoding="utf-8")
    heads = {"head_dim": 128, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = save_tiny("llama", folder / "model", hidden_size=128, intermediate_size=128, **heads)
    inputs = Inputs(model, text, folder / "codes")
    nearest = ["--rounding", "nearest", "--search-scale", "False", "--quiet"]
    quantize(calibrated("auto-awq", *nearest)(inputs, inputs.codes))
    return inputs


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its path in it, as far as it is determined; empty where there is
    no folder.
    """
    return {
        str(file.relative_to(folder)): determined(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def determined(file: Path) -> bytes:
    """What is in a file, without what an evaluation measures in seconds and bytes of memory, and
    where it was written.
    """
    if file.name in EVALUATIONS:
        return json.dumps(_determined(json.loads(file.read_bytes())), indent=1).encode()
    drawn = file.with_suffix(".json").name in EVALUATIONS  # a page is drawn from its JSON
    return b"" if drawn else file.read_bytes()


def _determined(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _determined(inner) for key, inner in value.items() if key not in OTHERWISE}
    return [_determined(inner) for inner in value] if isinstance(value, list) else value


def temporaries(target: Path) -> list[str]:
    """What lies beside an output, or hidden in it, and should not."""
    beside = [path.name for path in target.parent.iterdir() if path != target]
    return beside + [str(path) for path in target.rglob(".*")]
