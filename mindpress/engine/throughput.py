"""Tokens per second of reading a prompt and of writing an answer."""

import time
from dataclasses import dataclass
from statistics import median

from mindpress.engine.decoder import Decoder
from mindpress.engine.memory import device_errors
from mindpress.engine.sequence import CachedSequence

PROMPT = 256
NEW = 32
REPEATS = 3


@dataclass(frozen=True, slots=True)
class Throughput:
    """Tokens per second of one sequence: of `prompt` tokens read, and of `new` ones after them."""

    prefill: float
    decode: float
    prompt: int
    new: int


def measure(decoder: Decoder, prompt: int = PROMPT, new: int = NEW) -> Throughput:
    """Median of REPEATS runs after a short one that warms up. Clipped to the model's context."""
    limit = CachedSequence(decoder).limit
    new = max(1, min(new, limit // 2))
    prompt = max(1, min(prompt, limit - new))
    with device_errors():
        _run(decoder, min(prompt, 16), 2)
        runs = [_run(decoder, prompt, new) for _ in range(REPEATS)]
    prefill, decode = zip(*runs, strict=True)
    return Throughput(prompt / median(prefill), new / median(decode), prompt, new)


def _run(decoder: Decoder, prompt: int, new: int) -> tuple[float, float]:
    """Seconds of reading and of writing. Reading the token off a device waits for it."""
    sequence = CachedSequence(decoder)
    ids = [index % decoder.shape.vocab for index in range(prompt)]
    begun = time.perf_counter()
    token = int(sequence.feed(ids).argmax())
    read = time.perf_counter()
    for _ in range(new):
        token = int(sequence.feed([token]).argmax())
    return read - begun, time.perf_counter() - read
