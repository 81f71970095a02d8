from dataclasses import replace
from itertools import product
from math import exp, inf, nan

import pytest
import torch

from mindpress.errors import InputError
from mindpress.kernels.sampling import SamplingRows, sample_reference

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def in_triton(logits, parameters):
    """In chunks of 64 logits, so that there are several."""
    gpu = pytest.importorskip("mindpress.kernels.sampling.gpu", reason="no Triton")
    return gpu.sample(logits, parameters, block=64)


EACH = pytest.mark.parametrize("sample", [sample_reference, in_triton])


def rows(sequences, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, uniform=0.5):
    def column(value, dtype=torch.float32):
        values = torch.as_tensor(value, dtype=dtype).expand(sequences)
        return values.contiguous().to(DEVICE)

    return SamplingRows(
        column(temperature),
        column(top_k, torch.int32),
        column(top_p),
        column(min_p),
        column(uniform),
    )


def logits_of(sequences, vocab, spread=2.0):
    generator = torch.Generator().manual_seed(sequences * vocab)
    return (spread * torch.randn(sequences, vocab, generator=generator)).to(DEVICE)


def probabilities(logits, temperature, top_k, top_p, min_p):
    """Of the tokens that are kept, as the papers say it, one after the other."""
    largest = max(logits)
    weights = {token: exp((x - largest) / temperature) for token, x in enumerate(logits)}
    falling = sorted(weights.values(), reverse=True)
    if top_k:
        weights = {t: w for t, w in weights.items() if w >= falling[min(top_k, len(falling)) - 1]}
    wanted, mass = top_p * sum(weights.values()), 0.0
    for last in sorted(weights.values(), reverse=True):
        mass += last
        if mass >= wanted:
            break
    weights = {t: w for t, w in weights.items() if w >= last and w >= min_p}
    whole = sum(weights.values())
    return {token: weight / whole for token, weight in weights.items()}


def middles(distribution):
    """A uniform number in the middle of what belongs to each token that has some room."""
    before = 0.0
    for token, probability in distribution.items():
        if probability > 1e-3:
            yield before + probability / 2, token
        before += probability


SETTINGS = [
    (1.0, 0, 1.0, 0.0),
    (0.7, 5, 1.0, 0.0),
    (1.3, 0, 0.83, 0.0),
    (1.0, 0, 1.0, 0.2),
    (0.9, 40, 0.77, 0.031),
    (2.0, 1, 1.0, 0.0),
    (0.05, 300, 0.5, 0.9),
    (1.0, 1000, 0.999, 1e-4),
]


@EACH
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("vocab", [40, 129])
def test_every_token_is_drawn_where_it_belongs(sample, setting, vocab):
    logits = logits_of(1, vocab)
    pairs = list(middles(probabilities(logits[0].tolist(), *setting)))
    pairs = pairs[:: -(-len(pairs) // 3)] + pairs[-1:]
    uniforms, tokens = zip(*pairs, strict=True)
    parameters = rows(len(pairs), *setting, uniform=list(uniforms))
    assert sample(logits.expand(len(pairs), vocab), parameters).tolist() == list(tokens)


def test_triton_draws_the_tokens_of_the_reference():
    """Every sequence with its own parameters."""
    every = list(product((0.0, 0.6, 1.5), (0, 7), (1.0, 0.9), (0.0, 0.05)))
    temperature, top_k, top_p, min_p = zip(*every, strict=True)
    uniform = torch.rand(len(every), generator=torch.Generator().manual_seed(6))
    parameters = rows(len(every), temperature, top_k, top_p, min_p, uniform)
    logits = logits_of(len(every), 150)
    expected = sample_reference(logits, parameters)
    for shift in (-1e-4, 1e-4):  # none of them is at an edge
        moved = replace(parameters, uniform=parameters.uniform + shift)
        assert torch.equal(sample_reference(logits, moved), expected)
    assert torch.equal(in_triton(logits, parameters), expected)
    assert len(expected.unique()) > 12


@EACH
def test_the_first_and_the_last_token_kept(sample):
    """The largest number below 1 draws one that is kept, though sums are rounded."""
    logits = logits_of(2, 200)
    kept = logits >= logits.topk(9).values[:, -1:]
    ends = [row.nonzero().flatten() for row in kept]
    for uniform, end in ((0.0, 0), (1 - 2**-24, -1)):
        found = sample(logits, rows(2, 1.0, 9, uniform=uniform))
        assert found.tolist() == [tokens[end].item() for tokens in ends]


@EACH
def test_greedy_takes_the_first_of_the_largest(sample):
    logits = logits_of(3, 150)
    logits[0, [70, 20, 149]] = 50.0
    logits[1, 149] = 60.0
    logits[2, 0] = 60.0
    assert sample(logits, rows(3, temperature=0.0)).tolist() == [20, 149, 0]


@EACH
@pytest.mark.parametrize("setting", [(1.0, 2, 1.0, 0.0), (1.0, 0, 0.3, 0.0), (1.0, 0, 1.0, 1.0)])
def test_tokens_as_likely_as_the_last_are_kept(sample, setting):
    logits = torch.full((1, 80), -9.0)
    logits[0, [3, 66, 79]] = 4.0
    logits = logits.to(DEVICE).expand(3, 80)
    found = sample(logits, rows(3, *setting, uniform=[0.1, 0.5, 0.9]))
    assert found.tolist() == [3, 66, 79]


@EACH
def test_top_p_is_of_what_top_k_left(sample):
    """Of 0.4, 0.3, 0.2 and 0.1, the first three: 0.44, 0.33 and 0.22. Two of them hold 0.75."""
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log().to(DEVICE)
    ends = [(0.75, 2), (0.78, 1)]
    for top_p, lowest in ends:
        found = sample(logits, rows(1, 1.0, 3, top_p, uniform=0.0))
        assert found.tolist() == [lowest]


@EACH
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_what_is_no_number_gives_no_token(sample, temperature, value):
    logits = logits_of(3, 100)
    logits[1, 77] = value
    found = sample(logits, rows(3, temperature))
    assert found[1] == -1
    assert (found[::2] >= 0).all()


@EACH
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_extreme_numbers(sample):
    logits = torch.zeros(4, 70, device=DEVICE)
    logits[0, 5], logits[0, 6] = 3e38, -3e38
    logits[1, 69] = 1e-30
    logits[2, 69] = 1.0
    parameters = rows(4, [1.0, 1.0, 1e-38, 1.0], [0, 1, 0, 0], [0.9, 1.0, 0.9, 0.0], 0.0, 0.501)
    assert sample(logits, parameters).tolist() == [5, 69, 69, 35]


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_a_vocabulary_of_one_and_no_sequences():
    for sample in (sample_reference, in_triton):
        assert sample(logits_of(2, 1), rows(2, 1.0, 3, 0.5, 0.5)).tolist() == [0, 0]
        assert sample(logits_of(0, 5), rows(0)).shape == (0,)


def test_only_the_logits_are_read_and_only_the_tokens_written(monkeypatch):
    poison = torch.full((5, 260), nan, device=DEVICE)
    poison[:, 64:193] = logits_of(5, 129)
    logits = poison[1:4, 64:193]
    parameters = rows(3, [0.0, 1.0, 1.0], [0, 5, 0], [1.0, 1.0, 0.9], uniform=[0.2, 0.4, 0.6])
    expected = sample_reference(logits, parameters)
    room = torch.full((131,), 99, dtype=torch.int64, device=DEVICE)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: room[64:67])
    found = in_triton(logits, parameters)
    monkeypatch.undo()
    assert torch.equal(found, expected)
    assert (torch.cat((room[:64], room[67:])) == 99).all()


def test_every_type_of_logits():
    parameters = rows(2, [0.0, 0.8], 6, 0.95, uniform=[0.0, 0.37])
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        logits = logits_of(2, 90).to(dtype)
        assert torch.equal(in_triton(logits, parameters), sample_reference(logits, parameters))


def test_an_empty_vocabulary_is_refused():
    with pytest.raises(InputError, match="vocabulary of 0"):
        in_triton(torch.zeros(1, 0), rows(1))
