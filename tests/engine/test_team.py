"""Two real processes that share a model out, over gloo."""

import random
import signal

import pytest
from tiny_awq import quantize_folder
from tiny_models import save_tiny

from mindpress.engine.config import EngineConfig, GenerationConfig
from mindpress.engine.opening import open_runtime
from mindpress.errors import ConfigError, ResourceError
from mindpress.formats.quantized import QuantSpec

GREEDY = GenerationConfig(max_new_tokens=12, temperature=0.0, ignore_eos=True)


def tokens(folder, tp, **settings):
    drawn = random.Random(0)
    texts = [[drawn.randrange(3, 4000) for _ in range(length)] for length in (70, 9, 33)]
    config = EngineConfig("cpu", tp=tp, max_batch_size=2, max_prefill_token_num=40, **settings)
    runtime = open_runtime(folder, config)
    try:
        answers = [runtime.add(text, GREEDY) for text in texts]
        while not runtime.idle:
            runtime.step()
    finally:
        runtime.close()
    return [answer.tokens for answer in answers]


@pytest.mark.parametrize(
    ("family", "quantized", "settings"),
    [
        ("gemma2", False, {}),
        ("qwen2", True, {}),
        ("qwen3", False, {"quant_policy": 8}),
    ],
)
def test_two_processes_give_the_tokens_of_one(family, quantized, settings, tmp_path):
    folder = tmp_path / "model"
    save_tiny(family, folder, tokenizer=False)
    if quantized:
        quantize_folder(folder, QuantSpec(4, 32))
    assert tokens(folder, 2, **settings) == tokens(folder, 1, **settings)


def test_a_process_that_dies_is_an_error_and_ends_the_others(tmp_path):
    save_tiny("llama", tmp_path, tokenizer=False)
    runtime = open_runtime(tmp_path, EngineConfig("cpu", tp=2))
    runtime.add([5, 6, 7], GREEDY)
    (other,) = runtime._team._others
    other.send_signal(signal.SIGKILL)
    other.wait()
    with pytest.raises(ResourceError, match="another process of this run ended"):
        runtime.step()
    assert tokens(tmp_path, 2) == tokens(tmp_path, 1)


def test_heads_that_cannot_be_shared_out_are_refused(tmp_path):
    save_tiny("llama", tmp_path, tokenizer=False)
    with pytest.raises(ConfigError, match=r"--tp 4: 2 kv heads"):
        open_runtime(tmp_path, EngineConfig("cpu", tp=4))


def test_one_parallel_run_at_a_time(tmp_path):
    save_tiny("llama", tmp_path, tokenizer=False)
    runtime = open_runtime(tmp_path, EngineConfig("cpu", tp=2))
    try:
        with pytest.raises(ConfigError, match="another parallel run"):
            open_runtime(tmp_path, EngineConfig("cpu", tp=2))
    finally:
        runtime.close()
