"""The runtime on Llama-2-7B's sizes with random weights, which are made on the GPU: no files.

Weights in 16 bits are normal numbers, those in 4 bits are random codes; the two are not the same
model. Speed does not depend on that.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.gpu_machine import Bench, free_bytes
from benchmarks.gpu_report import Figure, Section, WrongResult, figure, release
from benchmarks.gpu_runtime_check import check_runtime
from benchmarks.gpu_source import SPEC, WHAT, Load, opened
from benchmarks.random_llama import llama_config
from mindpress.engine.config import GenerationConfig
from mindpress.engine.runtime import Runtime
from mindpress.kernels.matmul_w4a16.gpu_product import TritonProduct
from mindpress.kernels.matmul_w4a16.regimes import TileConfig
from mindpress.kernels.tuning.products import BUCKETS, key_of, shapes_of
from mindpress.models.llama import LLAMA
from mindpress.models.shape import ModelShape, read_shape

SHARE_GOAL, FLOAT_GOAL, TRANSFORMERS_GOAL, BATCH_GOAL = 0.7, 2.2, 6.0, 1.0


def measure_runtime(section: Section, bench: Bench) -> None:
    """Decoding alone and with 64 sequences; transformers' `generate` beside it."""
    config = llama_config(4096, 11008, 32, 32, 32)
    one, many = Load(1, 32, 128), Load(64, 512, 64)
    if bench.toy:
        config = llama_config(128, 128, 1, 2, 1) | {"vocab_size": 64}
        one, many = Load(1, 1, 2), Load(2, 1, 2)
    elif free_bytes(bench.device) < 48 * 2**30:
        many = replace(many, prompt=64)
    section.notes |= {"weights": WHAT, "prompts": [repr(one), repr(many)]}
    shape = read_shape(config | {"dtype": "float16"}, LLAMA)
    if not section.attempt("check", 0 if bench.toy else 15, partial(check_runtime, bench)):
        return
    speeds: dict[str, float] = {}
    works: list[tuple[str, float, Callable[[], list[Figure]]]] = [
        ("transformers", 30, partial(_transformers, bench, config, one, speeds)),
        ("float16", 40, partial(_floats, bench, shape, (one, many), speeds)),
        ("w4", 50, partial(_codes, bench, shape, (one, many), speeds)),
    ]
    for name, expects, work in works:
        section.attempt(name, 0 if bench.toy else expects, work)
    for missing in {"transformers", "float16", "float16 batch"} - set(speeds):
        section.skipped.append(f"w4 against {missing}: it was not measured")


def _floats(
    bench: Bench, shape: ModelShape, loads: tuple[Load, Load], speeds: dict[str, float]
) -> list[Figure]:
    one, many = loads
    runtime = opened(bench, shape, None, one)
    step, whole = _decoded(runtime, bench, one)
    limit = _limit(bench, runtime, one)
    speeds["float16"] = 1 / step
    found = [figure("float16 decode, batch 1", limit / step, "of the bandwidth's limit",
                    goal=SHARE_GOAL, tokens_per_second=1 / step, limit_tokens_per_second=1 / limit,
                    seconds=whole)]  # fmt: skip
    del runtime
    release()
    runtime = opened(bench, shape, None, many)
    step, whole = _decoded(runtime, bench, many)
    speeds["float16 batch"] = many.sequences * many.new / whole
    name = f"float16, batch {many.sequences}"
    return [*found, _throughput(name, many, step, whole)]


def _codes(
    bench: Bench, shape: ModelShape, loads: tuple[Load, Load], speeds: dict[str, float]
) -> list[Figure]:
    one, many = loads
    runtime = opened(bench, shape, SPEC, one)
    tuned = _use_tuned(bench, runtime)
    step, _ = _decoded(runtime, bench, one)
    share, found = _limit(bench, runtime, one) / step, list[Figure]()
    goals = {"float16": FLOAT_GOAL, "transformers": TRANSFORMERS_GOAL}
    found.append(figure("w4 decode, batch 1", 1 / step, "tokens/s", tuned_tiles=tuned,
                        share_of_bandwidth_limit=share))  # fmt: skip
    found += [
        figure(f"w4 decode, batch 1, against {other}", 1 / step / speeds[other], "times as fast",
               goal=goal)
        for other, goal in goals.items() if other in speeds
    ]  # fmt: skip
    del runtime
    release()
    runtime = opened(bench, shape, SPEC, many, 8)
    _use_tuned(bench, runtime)
    step, whole = _decoded(runtime, bench, many)
    name = f"w4 with int8 cache, batch {many.sequences}"
    found.append(_throughput(name, many, step, whole))
    if "float16 batch" in speeds:
        value = many.sequences * many.new / whole / speeds["float16 batch"]
        found.append(figure(f"{name}, against float16", value, "times as fast", goal=BATCH_GOAL))
    return found


def _use_tuned(bench: Bench, runtime: Runtime) -> int:
    """Give the products what was tuned in this run; how many configurations there were."""
    count = 0
    for linear in runtime.decoder.linears:
        product = getattr(linear, "weight", None)
        if not isinstance(product, TritonProduct):
            raise WrongResult(f"a linear of the w4 model is no Triton product: {linear.describe()}")
        shape = shapes_of([product.weight])[0]
        for rows in BUCKETS:
            config = bench.table.get(key_of(shape, rows, bench.device), TileConfig)
            if config is not None:
                product.tiles.configs[rows] = config
                count += 1
    return count


def _decoded(runtime: Runtime, bench: Bench, load: Load) -> tuple[float, float]:
    """Seconds of the median step that only decodes, and of the whole; a first run compiles and
    captures. WrongResult for answers that are too short."""
    for salt in () if bench.toy else (1, 2):
        _run(runtime, load, salt)
    steps, whole = _run(runtime, load, 3)
    return median(steps), whole


def _run(runtime: Runtime, load: Load, salt: int) -> tuple[list[float], float]:
    settings = GenerationConfig(load.new, temperature=0.0, ignore_eos=True)
    vocab = runtime.decoder.shape.vocab
    answers = []
    begun = time.perf_counter()
    for number in range(load.sequences):
        # Other beginnings each time: a prompt that was read before is not read again.
        first = 7 * salt + 31 * number
        prompt = [(first + 3 * index) % vocab for index in range(load.prompt)]
        answers.append(runtime.add(prompt, settings))
    steps = []
    while not runtime.idle:
        start = time.perf_counter()
        told = runtime.step()
        decodes = len(told) == load.sequences and all(len(one.tokens) > 1 for one in told)
        if decodes:
            steps.append(time.perf_counter() - start)
    whole = time.perf_counter() - begun
    if any(len(answer.tokens) < load.new for answer in answers) or not steps:
        raise WrongResult("answers ended before their length")
    return steps, whole


def _limit(bench: Bench, runtime: Runtime, load: Load) -> float:
    """Seconds in which memory gives what a step of one sequence reads: the weights, but of the
    embedding one row, and its cache, half of the answer being written."""
    decoder, memory = runtime.decoder, runtime.memory
    embedding = decoder.shape.vocab * decoder.shape.hidden * decoder.dtype.itemsize
    cache = memory.nbytes / (memory.pages * memory.tokens) * (load.prompt + load.new / 2)
    return (decoder.nbytes - embedding + cache) / bench.bandwidth / 1000


def _throughput(name: str, load: Load, step: float, whole: float) -> Figure:
    return figure(name, load.sequences * load.new / whole, "tokens/s, prompts included",
                  decoding_tokens_per_second=load.sequences / step)  # fmt: skip


def _transformers(
    bench: Bench, config: dict[str, object], load: Load, speeds: dict[str, float]
) -> list[Figure]:
    """Its own `generate`, greedy, in float16: seconds of all tokens less those of the first."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    made: Any = AutoModelForCausalLM
    settings: dict[str, Any] = config
    with bench.device:
        model = made.from_config(LlamaConfig(**settings), dtype=torch.float16).eval()
    ids = torch.arange(5, 5 + load.prompt, device=bench.device).unsqueeze(0)

    def seconds(new: int) -> float:
        _wait(bench)
        begun = time.perf_counter()
        model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False,
            min_new_tokens=new, max_new_tokens=new, pad_token_id=0,
        )  # fmt: skip
        _wait(bench)
        return time.perf_counter() - begun

    with torch.inference_mode():
        seconds(2)
        turns = [seconds(load.new) - seconds(1) for _ in range(1 if bench.toy else 3)]
    speeds["transformers"] = (load.new - 1) / median(turns)
    return [figure("transformers generate, float16, batch 1", speeds["transformers"], "tokens/s")]


def _wait(bench: Bench) -> None:
    if bench.device.type == "cuda":
        torch.cuda.synchronize(bench.device)
