import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mindpress.engine.config import Sampling
from mindpress.engine.sampling import Sampler, distribution, draw, penalize
from mindpress.errors import NumericError

VOCAB = 50
LOGITS = torch.randn(VOCAB, generator=torch.Generator().manual_seed(0)) * 3
SETTINGS = {
    "temperature": Sampling(0.5, 0, 1.0),
    "hot": Sampling(5.0, 0, 1.0),
    "top k": Sampling(1.0, 5, 1.0),
    "top p": Sampling(1.0, 0, 0.7),
    "all": Sampling(1.3, 20, 0.8),
    "top k above the vocabulary": Sampling(1.0, 999, 1.0),
    "min p": Sampling(2.0, 0, 1.0, min_p=0.3),
    "all and min p": Sampling(1.3, 20, 0.9, min_p=0.05),
}


def full(sampling):
    """Probabilities of the whole vocabulary."""
    probabilities, tokens = distribution(LOGITS, sampling)
    return torch.zeros(VOCAB).scatter(0, tokens, probabilities)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_distribution_is_that_of_transformers(name):
    sampling = SETTINGS[name]
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    expected = warpers(torch.tensor([[0]]), LOGITS.unsqueeze(0)).softmax(-1)[0]
    torch.testing.assert_close(full(sampling), expected)


@given(st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_top_p_keeps_the_fewest_tokens_that_hold_it(top_p, seed):
    logits = torch.randn(30, generator=torch.Generator().manual_seed(seed)) * 2
    probabilities = logits.softmax(-1)
    _, kept = distribution(logits, Sampling(1.0, 0, top_p))
    assert probabilities[kept].sum() >= top_p - 1e-6
    assert probabilities[kept[:-1]].sum() < top_p + 1e-6
    assert set(kept.tolist()) == set(logits.topk(len(kept)).indices.tolist())


def draws(sampling, seed, count=300):
    sampler = Sampler(sampling, seed, VOCAB)
    return [sampler(LOGITS) for _ in range(count)]


def test_draws_follow_the_distribution():
    sampling = Sampling(1.0, 5, 1.0)
    counts = torch.bincount(torch.tensor(draws(sampling, 0, 4000)), minlength=VOCAB)
    assert set(counts.nonzero().flatten().tolist()) == set(LOGITS.topk(5).indices.tolist())
    torch.testing.assert_close(counts / 4000, full(sampling), atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("uniform", "expected"), [(0.0, 2), (0.29, 2), (0.31, 7), (0.49, 7), (0.51, 9), (0.999999, 9)]
)
def test_a_draw_goes_through_the_vocabulary_in_its_order(uniform, expected):
    """Not by likelihood, so that devices that sort ties differently agree."""
    assert draw(torch.tensor([0.5, 0.3, 0.2]), torch.tensor([9, 2, 7]), uniform) == expected


def test_a_seed_draws_the_same_again_and_another_does_not():
    sampling = Sampling(1.5, 0, 1.0)
    assert draws(sampling, 7) == draws(sampling, 7)
    assert draws(sampling, 7) != draws(sampling, 8)
    assert draws(sampling, None) != draws(sampling, None)


def test_temperature_zero_is_greedy_and_a_tiny_one_nearly():
    best = int(LOGITS.argmax())
    assert set(draws(Sampling(0.0), 0, 20)) == {best}
    assert set(draws(Sampling(1e-6, 0, 1.0), 0, 20)) == {best}


def test_the_repetition_penalty_is_that_of_transformers():
    seen = torch.tensor([[3, 7, 7, 20, 49]])
    expected = RepetitionPenaltyLogitsProcessor(1.7)(seen, LOGITS.unsqueeze(0).clone())[0]
    mask = torch.zeros(VOCAB, dtype=torch.bool)
    mask[seen] = True
    torch.testing.assert_close(penalize(LOGITS, mask, 1.7), expected)


def test_what_was_drawn_is_penalized_too():
    sampler = Sampler(Sampling(0.0, repetition_penalty=1e3), 0, VOCAB)
    positive = LOGITS.abs() + 1
    drawn = [sampler(positive) for _ in range(VOCAB)]
    assert sorted(drawn) == list(range(VOCAB))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_nan_and_infinity_are_refused(temperature, value):
    broken = LOGITS.clone()
    broken[4] = float(value)
    with pytest.raises(NumericError, match="NaN or infinite"):
        Sampler(Sampling(temperature), 0, VOCAB)(broken)
