"""Random Unicode strings streamed token by token equal the full decode.

    python -m tests.stress.streaming [FOLDER ...]

FOLDERs hold tokenizers beside those that are made here and that of the demo. Every tenth
string is also streamed with a stop text in it, and its tokens in random order: bytes that are no
UTF-8. Those may come out otherwise than in the whole where a tokenizer decodes a run of bytes as
one.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

import mindpress.demo
from benchmarks.machine import machine
from mindpress.checkpoint.companions import load_tokenizer
from mindpress.engine.answer_text import AnswerText
from mindpress.engine.detokenize import BROKEN, Detokenizer
from tests.stress.random_text import random_text
from tests.stress.small_tokenizers import KINDS, small_tokenizer

DEMO = Path(mindpress.demo.__file__).parent / "tiny-llama"
RESULT = Path(__file__).parent / "results" / "streaming.json"
STRINGS = 10_000
EXAMPLES = 3
# Every so manieth string also as an answer with a stop text, and with its tokens shuffled.
OTHERWISE = 10


@dataclass
class Tally:
    """How many strings one tokenizer streamed, and how many came out otherwise."""

    strings: int = 0
    tokens: int = 0
    differing: int = 0
    half_characters: int = 0
    answers: int = 0
    answers_differing: int = 0
    shuffled_differing: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)

    def wrong(self, what: str, wanted: str, found: str) -> None:
        """Keep the first few of what differs."""
        if len(self.examples) < EXAMPLES:
            self.examples.append({"what": what, "wanted": wanted, "found": found})


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """The whole at once."""
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def streamed(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Piece by piece, the rest last."""
    stream = Detokenizer(tokenizer)
    return [*(stream.push(token) for token in ids), stream.finish()]


def answered(tokenizer: Any, ids: Sequence[int], stop: Sequence[str] = ()) -> str:
    """As a reader of an answer sees it."""
    text = AnswerText(tokenizer, stop)
    found = []
    for token in ids:
        found.append(text.push(token))
        if text.stopped:
            return "".join(found)
    return "".join([*found, text.finish()])


def check(tokenizer: Any, strings: int, seed: int = 0) -> Tally:
    """Stream so many strings."""
    draw, tally = Random(seed), Tally()
    for number in range(strings):
        text = random_text(draw)
        ids = tokenizer.encode(text, add_special_tokens=draw.random() < 0.5)
        tally.strings += 1
        tally.tokens += len(ids)
        _check_whole(tokenizer, ids, text, tally)
        if number % OTHERWISE == 0:
            _check_answer(tokenizer, ids, draw, tally)
            _check_shuffled(tokenizer, draw.sample(ids, len(ids)), tally)
    return tally


def _check_whole(tokenizer: Any, ids: Sequence[int], text: str, tally: Tally) -> None:
    whole, pieces = decoded(tokenizer, ids), streamed(tokenizer, ids)
    if "".join(pieces) != whole:
        tally.differing += 1
        tally.wrong("string", whole, "".join(pieces))
    if BROKEN not in text and any(BROKEN in piece for piece in pieces) and BROKEN not in whole:
        tally.half_characters += 1


def _check_answer(tokenizer: Any, ids: Sequence[int], draw: Random, tally: Tally) -> None:
    """To its end, and up to a stop text: a few characters out of its middle."""
    tally.answers += 1
    whole = decoded(tokenizer, ids)
    # An answer may be cut anywhere, and may end before what looks like half a character.
    found = answered(tokenizer, ids)
    if found not in (whole, whole.rstrip(BROKEN)):
        tally.answers_differing += 1
        tally.wrong("answer", whole, found)
    whole = whole.rstrip(BROKEN)
    if len(whole) < 3:
        return
    begin = draw.randrange(len(whole) - 1)
    stop = whole[begin : begin + draw.randint(1, 4)]
    wanted, found = whole[: whole.index(stop)], answered(tokenizer, ids, (stop,))
    if wanted != found:
        tally.answers_differing += 1
        tally.wrong(f"stop text {stop!r}", wanted, found)


def _check_shuffled(tokenizer: Any, ids: Sequence[int], tally: Tally) -> None:
    whole, pieces = decoded(tokenizer, ids), "".join(streamed(tokenizer, ids))
    if whole != pieces:
        tally.shuffled_differing += 1
        tally.wrong("shuffled tokens", whole, pieces)


def subjects(folders: Sequence[Path]) -> Iterator[tuple[str, Any]]:
    """Names and tokenizers."""
    for folder in (DEMO, *folders):
        yield folder.name, load_tokenizer(folder)
    for kind in KINDS:
        yield kind, small_tokenizer(kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--strings", type=int, default=STRINGS)
    args = parser.parse_args()
    begun, results = perf_counter(), {}
    for name, tokenizer in subjects(args.folders):
        results[name] = asdict(check(tokenizer, args.strings))
        sys.stderr.write(f"{name}: {results[name]['strings']} strings\n")
    command = shlex.join(
        ["python", "-m", "tests.stress.streaming", *(folder.name for folder in args.folders)]
    )
    seconds = round(perf_counter() - begun)
    found = {"command": command, "machine": machine(), "seconds": seconds, "tokenizers": results}
    RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
