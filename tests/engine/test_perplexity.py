import math

import pytest
import torch
from tiny_models import save_tiny, tiny_model
from torch.nn import functional

from mindpress.engine import perplexity
from mindpress.engine.config import EngineConfig
from mindpress.engine.loader import load_decoder
from mindpress.engine.perplexity import cut_windows, score_windows
from mindpress.errors import NumericError
from mindpress.events import Advanced, Started
from mindpress.sources.folder import open_folder

WINDOWS = torch.randint(0, 4096, (5, 40), generator=torch.Generator().manual_seed(1))


def opened(folder, seed):
    save_tiny("llama", folder, dtype=torch.float32, seed=seed, tokenizer=False)
    return load_decoder(open_folder(folder), EngineConfig("cpu"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("one"), 0)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("other"), 1)


@torch.no_grad()
def log_probabilities(seed):
    logits = tiny_model("llama", dtype=torch.float32, seed=seed)(WINDOWS).logits
    return logits[:, :-1].double().log_softmax(-1).flatten(0, 1)


def surprise(seed):
    return functional.nll_loss(log_probabilities(seed), WINDOWS[:, 1:].flatten()).item()


def test_windows_do_not_overlap_and_the_rest_is_left_out():
    windows = cut_windows(torch.arange(11), 4)
    assert windows.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_perplexity_is_that_of_transformers(decoder):
    score = score_windows(decoder, WINDOWS)
    assert score.tokens == 5 * 39
    assert score.perplexity == pytest.approx(math.exp(surprise(0)), rel=1e-5)
    assert score.divergence is None


def test_divergence_and_agreement_are_those_of_the_definitions(decoder, other):
    score = score_windows(decoder, WINDOWS, other)
    ours, theirs = log_probabilities(0), log_probabilities(1)
    divergence = (theirs.exp() * (theirs - ours)).sum(-1).mean().item()
    agreement = (ours.argmax(-1) == theirs.argmax(-1)).double().mean().item()
    assert score.divergence == pytest.approx(divergence, rel=1e-4)
    assert score.agreement == pytest.approx(agreement)
    assert score.perplexity == pytest.approx(math.exp(surprise(0)), rel=1e-5)
    assert score.other_perplexity == pytest.approx(math.exp(surprise(1)), rel=1e-5)


def test_a_model_agrees_with_itself(decoder):
    score = score_windows(decoder, WINDOWS, decoder)
    assert score.divergence == 0
    assert score.agreement == 1
    assert score.perplexity == score.other_perplexity


def test_working_in_pieces_changes_nothing(decoder, other, monkeypatch):
    whole = score_windows(decoder, WINDOWS, other)
    monkeypatch.setattr(perplexity, "TOKENS_AT_ONCE", 90)
    monkeypatch.setattr(perplexity, "LOGITS_AT_ONCE", 7 * 4096)
    monkeypatch.setattr(perplexity, "FEWEST_POSITIONS", 20)
    pieces = score_windows(decoder, WINDOWS, other)
    assert pieces.tokens == whole.tokens
    assert pieces.divergence == pytest.approx(whole.divergence, rel=1e-6)
    assert pieces.perplexity == pytest.approx(whole.perplexity, rel=1e-6)
    assert pieces.agreement == whole.agreement


def test_it_tells_how_far_it_is(decoder):
    events = []
    score_windows(decoder, WINDOWS, name="ptb", listener=events.append)
    assert events[0] == Started("score ptb", 5, "window")
    assert [event.done for event in events if isinstance(event, Advanced)][-1] == 5


def test_a_model_that_computes_nan_is_refused(tmp_path):
    broken = opened(tmp_path, 2)
    broken._outer.final_norm[0] = float("nan")
    with pytest.raises(NumericError, match="NaN"):
        score_windows(broken, WINDOWS)
