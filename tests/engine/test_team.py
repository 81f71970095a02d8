"""Two real processes that share a model out, over gloo."""

import gc
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
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
    with pytest.raises(ConfigError, match=r"tp 4: 2 kv heads"):
        open_runtime(tmp_path, EngineConfig("cpu", tp=4))


def test_a_process_that_never_begins_is_an_error_at_once(tmp_path, monkeypatch):
    save_tiny("llama", tmp_path, tokenizer=False)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ResourceError, match="ended before it began"):
        open_runtime(tmp_path, EngineConfig("cpu", tp=2))


def test_closing_ends_the_processes_and_may_be_repeated(tmp_path):
    save_tiny("llama", tmp_path, tokenizer=False)
    runtime = open_runtime(tmp_path, EngineConfig("cpu", tp=2))
    (other,) = runtime._team._others
    folder = runtime._team._folder
    runtime.close()
    runtime.close()
    assert other.returncode is not None
    assert not folder.exists()
    with pytest.raises(ConfigError, match="was closed"):
        runtime.add([5], GREEDY)


def test_a_run_that_is_forgotten_ends_its_processes(tmp_path):
    save_tiny("llama", tmp_path, tokenizer=False)
    runtime = open_runtime(tmp_path, EngineConfig("cpu", tp=2))
    (other,) = runtime._team._others
    del runtime
    gc.collect()
    assert other.wait(timeout=20) is not None
    assert tokens(tmp_path, 2) == tokens(tmp_path, 1)


INTERRUPTED = """
import sys
from mindpress.engine.config import EngineConfig, GenerationConfig
from mindpress.engine.opening import open_runtime
from pathlib import Path
runtime = open_runtime(Path(sys.argv[1]), EngineConfig("cpu", tp=2))
print(runtime._team._others[0].pid, runtime._team._folder, flush=True)
try:
    while True:
        runtime.add([5, 6, 7], GenerationConfig(400, ignore_eos=True))
        while not runtime.idle:
            runtime.step()
except KeyboardInterrupt:
    runtime.close()
    sys.exit(130)
"""


def test_ctrl_c_is_for_the_first_process_and_ends_all(tmp_path):
    """As a terminal sends it: to the whole group, in the middle of a step."""
    save_tiny("llama", tmp_path, tokenizer=False)
    run = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, tmp_path],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        pid, folder = run.stdout.readline().split()
        time.sleep(0.5)
        os.killpg(run.pid, signal.SIGINT)
        assert run.wait(timeout=60) == 130
        assert not psutil.pid_exists(int(pid))
        assert not Path(folder).exists()
    finally:
        run.kill()
        run.communicate()


def test_one_parallel_run_at_a_time(tmp_path):
    save_tiny("llama", tmp_path, tokenizer=False)
    runtime = open_runtime(tmp_path, EngineConfig("cpu", tp=2))
    try:
        with pytest.raises(ConfigError, match="another parallel run"):
            open_runtime(tmp_path, EngineConfig("cpu", tp=2))
    finally:
        runtime.close()
