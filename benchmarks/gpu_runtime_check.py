"""Whether the runtime on the GPU computes what plain torch does: a small model, written by both."""

import torch

from benchmarks.gpu_check import check
from benchmarks.gpu_machine import Bench
from benchmarks.gpu_report import Figure, WrongResult, figure
from benchmarks.gpu_source import SPEC, Load, RandomSource, opened
from benchmarks.random_llama import llama_config
from mindpress.engine.config import EngineConfig, GenerationConfig, QuantPolicy
from mindpress.engine.loader import load_decoder
from mindpress.engine.runtime import Runtime
from mindpress.formats.quantized import QuantSpec
from mindpress.models.llama import LLAMA
from mindpress.models.shape import ModelShape, read_shape

# Between log probabilities in float16 with int8 keys and values, and such in float32.
MOST_APART = 0.1


def check_runtime(bench: Bench) -> list[Figure]:
    """Prompts and steps, also as CUDA graphs: log probabilities of the tokens that were written."""
    config = llama_config(512, 1024, 2, 8, 2) | {"vocab_size": 1000}
    load = Load(3, 70, 6)
    if bench.toy:
        config = llama_config(128, 128, 1, 2, 1) | {"vocab_size": 64}
        load = Load(1, 2, 2)
    shape = read_shape(config | {"dtype": "float16"}, LLAMA)
    kinds: list[tuple[str, QuantSpec | None, QuantPolicy]] = [
        ("float16", None, 0),
        ("w4 with int8 cache", SPEC, 8),
    ]
    found = []
    for name, spec, policy in kinds[-1:] if bench.toy else kinds:
        runtime = opened(bench, shape, spec, load, policy)
        apart = _apart(bench, shape, spec, runtime, load)
        check(f"log probabilities of {name}", apart / MOST_APART)
        found.append(figure(f"check of the runtime, {name}", apart, "between log probabilities"))
    return found


def _apart(
    bench: Bench, shape: ModelShape, spec: QuantSpec | None, runtime: Runtime, load: Load
) -> float:
    """The largest difference; the reference reads prompt and answer at once, in float32."""
    device = "cuda" if bench.device.type == "cuda" else "cpu"
    config = EngineConfig(device, "float32", kernels="reference", quant_policy=0)
    plain = load_decoder(RandomSource(shape, spec, bench.device), config)
    settings = GenerationConfig(load.new, temperature=0.0, ignore_eos=True, logprobs=0)
    prompts = [[(7 + 31 * number + 3 * index) % shape.vocab for index in range(load.prompt)]
               for number in range(load.sequences)]  # fmt: skip
    answers = [runtime.add(prompt, settings) for prompt in prompts]
    while not runtime.idle:
        runtime.step()
    apart = 0.0
    for prompt, answer in zip(prompts, answers, strict=True):
        if len(answer.tokens) != load.new:
            raise WrongResult(f"an answer of {len(answer.tokens)} tokens, not {load.new}")
        ids = torch.tensor([prompt + answer.tokens], device=bench.device)
        logits = plain.logits(plain.hidden(ids))[0, load.prompt - 1 : -1]
        chosen = logits.log_softmax(-1).gather(1, ids[0, load.prompt :].unsqueeze(1)).flatten()
        told = torch.tensor([one.chosen for one in answer.logprobs], device=bench.device)
        apart = max(apart, (chosen - told).abs().max().item())
    return apart
