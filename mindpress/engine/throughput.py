"""Tokens per second of reading a prompt and of writing an answer, as `bench latency` has them."""

from dataclasses import dataclass

from mindpress.engine.bench_measure import measure_runtime
from mindpress.engine.bench_settings import Bench, Load
from mindpress.engine.config import EngineConfig
from mindpress.engine.context import context_length
from mindpress.engine.decoder import Decoder
from mindpress.engine.opening import runtime_of

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
    """Median of REPEATS runs after one that warms up. Clipped to the model's context."""
    limit = context_length(decoder.shape)
    new = max(1, min(new, limit // 2))
    prompt = max(1, min(prompt, limit - new))
    load = Load(1, 1)
    # The first token is part of reading: its time is not one between tokens.
    settings = Bench("latency", "", (load,), input_len=prompt, output_len=new, repeats=REPEATS)
    config = EngineConfig(max_batch_size=1, session_len=prompt + new)
    figures = measure_runtime(runtime_of(decoder, config), settings, load).figures
    prefill, decode = figures["prefill_tokens_per_second"], figures["decode_tokens_per_second"]
    return Throughput(
        prefill.median if prefill else 0.0, decode.median if decode else 0.0, prompt, new
    )
