import pytest
import torch
from tiny_models import save_tiny, tiny_model

from mindpress.engine.config import EngineConfig, GenerationConfig
from mindpress.engine.generate import generate
from mindpress.engine.opening import open_runtime
from mindpress.errors import ConfigError, InputError

PROMPT = [5, 100, 200, 300]
GREEDY = GenerationConfig(max_new_tokens=30, temperature=0.0)
LONGROPE = {
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0 + i / 8 for i in range(16)],
        "long_factor": [2.0 + i for i in range(16)],
    },
    "original_max_position_embeddings": 16,
}
DYNAMIC = {
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    "max_position_embeddings": 16,
}


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("llama"), "llama")


def opened(folder, family, **overrides):
    save_tiny(family, folder, dtype=torch.float32, tokenizer=False, **overrides)
    return open_runtime(folder, EngineConfig("cpu", max_batch_size=2, max_prefill_token_num=512))


@torch.no_grad()
def generated_by_transformers(family, prompt, overrides, **settings):
    model = tiny_model(family, dtype=torch.float32, **overrides)
    settings = {"do_sample": False, "max_new_tokens": 30, "eos_token_id": None} | settings
    mask = torch.ones(1, len(prompt), dtype=torch.long)
    return model.generate(torch.tensor([prompt]), attention_mask=mask, **settings)[0].tolist()


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("llama", {}),
        ("mistral", {"sliding_window": 10}),
        ("gemma2", {}),
        ("phi3", LONGROPE),
        ("llama", DYNAMIC),
    ],
    ids=["llama", "mistral window", "gemma2", "phi3 past its trained length", "dynamic likewise"],
)
def test_greedy_is_that_of_transformers(family, overrides, tmp_path):
    runtime = opened(tmp_path, family, **overrides)
    expected = generated_by_transformers(family, PROMPT, overrides)
    assert PROMPT + list(generate(runtime, PROMPT, GREEDY)) == expected


def test_repetition_penalty_is_that_of_transformers(tmp_path):
    """It is on the prompt's tokens too; so few tokens that they repeat."""
    few, prompt = {"vocab_size": 24}, [5, 10, 20, 23]
    runtime = opened(tmp_path, "llama", **few)
    expected = generated_by_transformers("llama", prompt, few, repetition_penalty=1.5)
    config = GenerationConfig(30, temperature=0.0, repetition_penalty=1.5)
    assert prompt + list(generate(runtime, prompt, config)) == expected
    assert expected != generated_by_transformers("llama", prompt, few)


def test_a_seed_makes_an_answer_again(runtime):
    config = GenerationConfig(20, temperature=1.0, seed=3)
    answers = [list(generate(runtime, PROMPT, config)) for _ in range(2)]
    other = list(generate(runtime, PROMPT, GenerationConfig(20, temperature=1.0, seed=4)))
    assert answers[0] == answers[1] != other


def test_it_ends_at_a_token_that_ends_answers(runtime):
    whole = list(generate(runtime, PROMPT, GREEDY))
    end = whole[5]
    generation = generate(runtime, PROMPT, GREEDY, {end, 4095})
    assert list(generation) == whole[: whole.index(end)]
    assert generation.finish == "eos"
    ignoring = GenerationConfig(30, temperature=0.0, ignore_eos=True)
    assert list(generate(runtime, PROMPT, ignoring, {end})) == whole


def test_it_ends_after_max_new_tokens(runtime):
    generation = generate(runtime, PROMPT, GREEDY)
    assert len(list(generation)) == 30
    assert generation.finish == "length"


def test_it_ends_where_the_context_is_full(tmp_path):
    runtime = opened(tmp_path, "llama", max_position_embeddings=16)
    generation = generate(runtime, PROMPT, GREEDY)
    # The last token needs no place: nothing is read after it.
    assert len(list(generation)) == 16 - len(PROMPT) + 1
    assert generation.finish == "context"


def test_a_prompt_longer_than_the_context_is_refused_at_once(tmp_path):
    runtime = opened(tmp_path, "llama", max_position_embeddings=16)
    with pytest.raises(ConfigError, match=r"17 tokens.* 16"):
        generate(runtime, [1] * 17, GREEDY)
    assert len(list(generate(runtime, [1] * 16, GREEDY))) == 1


def test_an_empty_prompt_and_foreign_tokens_are_refused(runtime):
    with pytest.raises(ConfigError, match="empty"):
        generate(runtime, [], GREEDY)
    with pytest.raises(InputError, match="token 4096"):
        generate(runtime, [4096], GREEDY)


def test_who_stops_reading_leaves_nothing_behind(runtime):
    generation = generate(runtime, PROMPT, GREEDY)
    first = [next(generation), next(generation)]
    generation.close()
    assert first == list(generate(runtime, PROMPT, GREEDY))[:2]
    assert generation.finish == "interrupted"
    assert runtime.idle
    assert runtime.pool.used == 0
