"""Many answers at once through the real model: each is what it would be alone."""

import random

import pytest
import torch
from tiny_awq import quantize_folder
from tiny_models import FAMILIES, save_tiny

from mindpress.engine.config import EngineConfig, GenerationConfig
from mindpress.engine.loader import load_decoder
from mindpress.engine.opening import open_runtime
from mindpress.engine.sampling import Sampler
from mindpress.errors import ConfigError, NumericError, ResourceError
from mindpress.events import Note, ignore
from mindpress.formats.quantized import QuantSpec
from mindpress.sources.opening import open_source

GREEDY = GenerationConfig(max_new_tokens=12, temperature=0.0, ignore_eos=True)
SMALL = {"max_batch_size": 4, "max_prefill_token_num": 24}


def prompts(count, longest=90, seed=0):
    drawn = random.Random(seed)
    return [
        [drawn.randrange(3, 4000) for _ in range(drawn.randrange(1, longest))] for _ in range(count)
    ]


def opened(folder, listener=ignore, **settings):
    return open_runtime(folder, EngineConfig("cpu", **SMALL | settings), listener)


def run(runtime, texts, config=GREEDY, eos=()):
    answers = [runtime.add(text, config, eos) for text in texts]
    finish(runtime)
    return answers


def finish(runtime):
    steps = 0
    while not runtime.idle:
        runtime.step()
        steps += 1
        assert steps < 2000


def alone(folder, texts, config=GREEDY, **settings):
    """Each text for itself, with a cache in one piece, by the decoder's own forward."""
    decoder = load_decoder(open_source(folder), EngineConfig("cpu", **settings))
    return [written(decoder, text, config) for text in texts]


def written(decoder, text, config):
    sampler = Sampler(config.sampling(), config.seed, decoder.shape.vocab)
    ids, cache, regime = list(text), decoder.new_cache(), 0
    for _ in range(config.max_new_tokens):
        if decoder.rotary.regime(len(ids)) != regime:
            cache, regime = decoder.new_cache(), 1
        unread = torch.tensor([ids[cache.length :]])
        ids.append(sampler(decoder.logits(decoder.hidden(unread, cache)[0, -1])))
    return ids[len(text) :]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_tiny("llama", tmp_path_factory.mktemp("llama") / "model", tokenizer=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_gives_what_each_prompt_gives_alone(family, tmp_path):
    folder = tmp_path / "model"
    save_tiny(family, folder, tokenizer=False)
    texts = prompts(7)
    runtime = opened(folder)
    answers = run(runtime, texts)
    assert [answer.tokens for answer in answers] == alone(folder, texts)
    assert {answer.finish for answer in answers} == {"length"}
    assert runtime.pool.used == 0


@pytest.mark.parametrize("kernels", ["cpu", "cpu-int8", "reference"])
def test_kernels_on_quantized_weights(native, kernels, tmp_path):
    folder = tmp_path / "model"
    save_tiny("llama", folder, tokenizer=False)
    quantize_folder(folder, QuantSpec(4, 32))
    texts = prompts(5)
    answers = run(opened(folder, kernels=kernels), texts)
    assert [answer.tokens for answer in answers] == alone(folder, texts, kernels=kernels)


@pytest.mark.parametrize("policy", [8, 4])
def test_quantized_pages(policy, llama):
    texts = prompts(5)
    answers = run(opened(llama, quant_policy=policy), texts)
    same = [
        got.tokens == expected
        for got, expected in zip(answers, alone(llama, texts, quant_policy=policy), strict=True)
    ]
    assert sum(same) >= 4  # a code on the edge may fall otherwise in another order of sums


def test_preempted_sequences_end_as_if_nothing_had_happened(llama):
    """Three pages for four sequences that grow to two and three pages each."""
    texts = prompts(4, longest=60)
    config = GenerationConfig(max_new_tokens=30, temperature=0.0, ignore_eos=True)
    page = opened(llama).memory
    bytes_per_page = page.nbytes // page.pages
    tight = opened(llama, cache_memory=4 * bytes_per_page)
    assert tight.memory.pages == 4
    answers = run(tight, texts, config)
    assert [answer.tokens for answer in answers] == alone(llama, texts, config)
    assert tight.pool.used == 0


def test_equal_beginnings_are_read_once(llama):
    runtime = opened(llama)
    start = prompts(1, 90, seed=5)[0] + [7] * 70
    first = run(runtime, [[*start, 11]])[0]
    later = run(runtime, [[*start, 12, 13], [*start, 11]])
    whole = len(start) // runtime.memory.tokens * runtime.memory.tokens
    assert first.reused == 0
    assert [answer.reused for answer in later] == [whole, whole]
    assert later[1].tokens == first.tokens
    assert [later[0].tokens] == alone(llama, [[*start, 12, 13]])


DYNAMIC = {"rope_theta": 5000.0, "rope_type": "dynamic", "factor": 4.0}
LONG = {
    "rope_theta": 10000.0,
    "rope_type": "longrope",
    "short_factor": [1.0] * 16,
    "long_factor": [3.0] * 16,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("family", "rope", "trained"), [("llama", DYNAMIC, 64), ("phi3", LONG, 512)]
)
def test_texts_past_the_trained_length(family, rope, trained, tmp_path):
    """Angles depend on the length of the text: equal beginnings of others cannot be shared, and
    a text that grows into longrope's second regime is read again."""
    folder = tmp_path / "model"
    sizes = {"rope_parameters": rope, "max_position_embeddings": trained}
    if family == "phi3":
        sizes["original_max_position_embeddings"] = 64
    save_tiny(family, folder, tokenizer=False, **sizes)
    start = prompts(1, 90, seed=5)[0]
    start = (start * 90)[:60]
    texts = [start, [*start, *start[:40]], [*start, *start[:39], 7], start[:50]]
    runtime = opened(folder)
    answers = [run(runtime, [text])[0] for text in texts]
    assert [answer.tokens for answer in answers] == alone(folder, texts)


def test_a_seed_gives_the_same_answer_in_any_company(llama):
    text, *others = prompts(4)
    config = GenerationConfig(max_new_tokens=12, temperature=1.0, seed=3, ignore_eos=True)
    (first,) = run(opened(llama), [text], config)
    runtime = opened(llama)
    answers = [runtime.add(other, GREEDY) for other in others]
    answers.append(runtime.add(text, config))
    finish(runtime)
    assert answers[-1].tokens == first.tokens
    assert [first.tokens] == alone(llama, [text], config)


def test_an_end_token_ends_the_answer_and_is_not_part_of_it(llama):
    texts = prompts(3)
    whole = alone(llama, texts)
    answers = run(opened(llama), texts, GenerationConfig(12, temperature=0.0), eos=[whole[1][5]])
    assert answers[1].tokens == whole[1][: whole[1].index(whole[1][5])]
    assert answers[1].finish == "eos"


def test_logprobs_are_those_of_the_model(llama):
    text = prompts(1)[0]
    config = GenerationConfig(4, temperature=0.0, ignore_eos=True, logprobs=3)
    (answer,) = run(opened(llama), [text], config)
    decoder = load_decoder(open_source(llama), EngineConfig("cpu"))
    ids = torch.tensor([text + answer.tokens])
    expected = decoder.logits(decoder.hidden(ids))[0].log_softmax(-1)
    for place, (token, found) in enumerate(zip(answer.tokens, answer.logprobs, strict=True)):
        row = expected[len(text) - 1 + place]
        torch.testing.assert_close(torch.tensor(found.chosen), row[token], atol=1e-4, rtol=1e-4)
        assert list(found.top) == row.topk(3).indices.tolist()
        assert found.top[token] == found.chosen


def test_a_thousand_requests_a_third_of_them_cancelled_leave_nothing(llama):
    drawn = random.Random(1)
    runtime = opened(llama, max_batch_size=16, max_prefill_token_num=256)
    answers = [
        runtime.add(text, GenerationConfig(3, temperature=0.0)) for text in prompts(1000, 12)
    ]
    cancelled = set(drawn.sample(range(1000), 300))
    left = sorted(cancelled)
    while not runtime.idle:
        runtime.step()
        for _ in range(min(4, len(left))):
            runtime.end(answers[left.pop(drawn.randrange(len(left)))])
    assert runtime.pool.used == 0
    assert runtime._requests == {}
    assert all(answer.finish for answer in answers)
    assert {answer.finish for index, answer in enumerate(answers) if index not in cancelled} == {
        "length"
    }


def test_a_prompt_longer_than_the_session_is_refused(llama):
    runtime = opened(llama, session_len=40)
    with pytest.raises(ConfigError, match="has 41 tokens") as refused:
        runtime.add([5] * 41, GREEDY)
    assert "--session-len" in refused.value.hint
    (answer,) = run(runtime, [[5] * 36], GREEDY)
    assert answer.finish == "context"
    assert len(answer.tokens) == 5


def test_a_session_longer_than_the_context_is_refused(llama):
    with pytest.raises(ConfigError, match="context holds 512"):
        opened(llama, session_len=513)


def test_a_budget_that_holds_no_sequence_is_refused_and_a_small_one_said(llama):
    with pytest.raises(ConfigError, match="1,000 bytes") as refused:
        opened(llama, cache_memory=1000)
    assert "--cache-memory" in refused.value.hint
    events = []
    memory = opened(llama).memory
    runtime = opened(llama, events.append, cache_memory=2 * memory.nbytes // memory.pages)
    assert any(isinstance(event, Note) and "--session-len is 64" in event.text for event in events)
    with pytest.raises(ConfigError, match="64"):
        runtime.add([5] * 65, GREEDY)


def test_a_model_that_computes_nan_says_so(llama):
    runtime = opened(llama)
    runtime.decoder._outer.final_norm[0] = float("nan")
    runtime.add([5], GREEDY)
    with pytest.raises(NumericError, match="NaN"):
        runtime.step()


def running_out_above(runtime, rows):
    """A device that cannot compute more rows than that at once."""
    whole = runtime._computed

    def computed(step):
        if len(step.ids) > rows:
            raise torch.OutOfMemoryError("tried to allocate 2.00 GiB")
        return whole(step)

    runtime._computed = computed


def test_out_of_memory_is_answered_by_smaller_steps(llama):
    texts, events = prompts(6), []
    runtime = opened(llama, events.append, max_batch_size=6, max_prefill_token_num=64)
    running_out_above(runtime, 5)
    answers = run(runtime, texts)
    assert [answer.tokens for answer in answers] == alone(llama, texts)
    said = [event.text for event in events if isinstance(event, Note)]
    assert len(said) == 4  # 64 rows, then 32, 16, 8, 4
    assert "at most 1 sequences and 4 rows" in said[-1]
    assert runtime.pool.used == 0


def test_out_of_memory_for_one_row_is_an_error(llama):
    runtime = opened(llama)
    running_out_above(runtime, 0)
    runtime.add([5, 6, 7], GREEDY)
    with pytest.raises(ResourceError, match=r"memory ran out.*2\.00 GiB"):
        finish(runtime)


# What lies in pages where nothing was written may be anything; it is masked after the product.
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("policy", [0, 8])
def test_the_gpu_kernels_in_the_interpreter(policy, tmp_path):
    """All of them together, as on a GPU; there the same test runs them compiled."""
    folder = tmp_path / "model"
    sizes = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1, "head_dim": 64,
             "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 64}  # fmt: skip
    save_tiny("qwen3", folder, tokenizer=False, **sizes)
    quantize_folder(folder, QuantSpec(4, 64))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    texts = [[5, 6, 7, 8, 9], [10, 11]]
    config = GenerationConfig(max_new_tokens=3, temperature=0.0, ignore_eos=True)
    found = {}
    for kernels in ("triton", "reference"):
        engine = EngineConfig(device, "float16", kernels=kernels, quant_policy=policy,
                              max_batch_size=2, session_len=64)  # fmt: skip
        runtime = open_runtime(folder, engine)
        found[kernels] = [answer.tokens for answer in run(runtime, texts, config)]
    assert found["triton"] == found["reference"]
