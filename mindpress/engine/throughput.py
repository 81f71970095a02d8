"""Tokens per second of reading a prompt and of writing an answer."""

import time
from dataclasses import dataclass
from statistics import median

from mindpress.engine.config import EngineConfig, GenerationConfig
from mindpress.engine.context import context_length
from mindpress.engine.decoder import Decoder
from mindpress.engine.opening import runtime_of
from mindpress.engine.runtime import Runtime

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
    limit = context_length(decoder.shape)
    new = max(1, min(new, limit // 2))
    prompt = max(1, min(prompt, limit - new))
    config = EngineConfig(max_batch_size=1, session_len=prompt + new)
    _run(runtime_of(decoder, config), min(prompt, 16), 2)
    runs = [_run(runtime_of(decoder, config), prompt, new) for _ in range(REPEATS)]
    prefill, decode = zip(*runs, strict=True)
    return Throughput(prompt / median(prefill), new / median(decode), prompt, new)


def _run(runtime: Runtime, prompt: int, new: int) -> tuple[float, float]:
    """Seconds of reading and of writing. Every step ends with the token on the host."""
    ids = [index % runtime.decoder.shape.vocab for index in range(prompt)]
    config = GenerationConfig(new + 1, temperature=0.0, ignore_eos=True)
    begun = time.perf_counter()
    answer = runtime.add(ids, config)
    while not answer.tokens:
        runtime.step()
    read = time.perf_counter()
    while not runtime.idle:
        runtime.step()
    return read - begun, time.perf_counter() - read
