"""Decoding steps through fixed tensors, as CUDA graphs replay them; on a CPU they are run again."""

import random

import pytest
import torch
from tiny_models import save_tiny

from mindpress.engine.batch_sampling import draw_all
from mindpress.engine.config import EngineConfig, GenerationConfig, Sampling
from mindpress.engine.graphs import graph_size
from mindpress.engine.opening import open_runtime
from mindpress.engine.sampling import Sampler
from mindpress.errors import NumericError
from mindpress.kernels.dispatch import Kernels

REFERENCE = Kernels("reference", "asked for")


def run_again(compute):
    """Stands in for a capture: the same tensors are read, and the result is at the same place."""
    logits = compute()

    def replay():
        logits.copy_(compute())

    return logits, replay


def tokens(folder, graphs):
    drawn = random.Random(0)
    config = EngineConfig("cpu", max_batch_size=6, max_prefill_token_num=48)
    runtime = open_runtime(folder, config)
    runtime._fused = None
    if graphs:
        runtime._graphs = runtime._decode_graphs(run_again)
    answers = []
    for count in range(1, 10):  # of different lengths, so that every size of batch comes
        text = [drawn.randrange(3, 4000) for _ in range(drawn.randrange(1, 70))]
        answers.append(runtime.add(text, GenerationConfig(2 * count, temperature=0.0)))
    while not runtime.idle:
        runtime.step()
    return [answer.tokens for answer in answers], runtime


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_replayed_steps_give_the_same_tokens(family, tmp_path):
    save_tiny(family, tmp_path, tokenizer=False)
    found, runtime = tokens(tmp_path, graphs=True)
    assert found == tokens(tmp_path, graphs=False)[0]
    assert set(runtime._graphs._graphs) == {1, 2, 4, 6}


def test_sizes_are_few():
    assert [graph_size(count) for count in (1, 2, 3, 5, 8, 9, 17)] == [1, 2, 4, 8, 8, 16, 24]
    assert len({graph_size(count) for count in range(1, 129)}) == 19


def test_all_at_once_draws_what_each_alone_draws():
    """Mixed settings; the penalty sees prompt and drawn tokens."""
    generator = torch.Generator().manual_seed(0)
    kinds = [
        Sampling(0.0),
        Sampling(1.0, 5, 1.0),
        Sampling(0.7, 0, 0.8),
        Sampling(1.5, 20, 0.9, min_p=0.1),
        Sampling(0.0, repetition_penalty=2.0),
        Sampling(1.0, 0, 1.0, repetition_penalty=1.3),
    ]
    alone, together = ([Sampler(kind, 7, 50) for kind in kinds] for _ in range(2))
    for sampler in (*alone, *together):
        sampler.see([3, 4])
    for _ in range(40):
        logits = torch.randn(len(kinds), 50, generator=generator) * 3
        expected = [sampler(row) for sampler, row in zip(alone, logits, strict=True)]
        assert draw_all(logits, together, REFERENCE) == expected


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_nan_and_infinity_are_refused(value):
    logits = torch.zeros(2, 9)
    logits[1, 3] = float(value)
    samplers = [Sampler(Sampling(1.0), 0, 9) for _ in range(2)]
    with pytest.raises(NumericError, match="NaN or infinite"):
        draw_all(logits, samplers, REFERENCE)
