import pytest
from tiny_models import TOKENIZER
from tokenizers.processors import TemplateProcessing

from mindpress.calib import text_ids as reading
from mindpress.calib.datasets import read_text
from mindpress.calib.text_ids import text_ids
from mindpress.checkpoint.companions import load_tokenizer


@pytest.fixture
def tokenizer():
    """The demo's, with special tokens at both ends."""
    loaded = load_tokenizer(TOKENIZER)
    loaded.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return loaded


@pytest.mark.parametrize("text", [
    read_text("excerpt", "test"), "aé\n\n \U0001f600x" * 9000, "a" * 30_000, "short", "",
])  # fmt: skip
def test_pieces_give_the_ids_of_the_whole(tokenizer, text, monkeypatch):
    monkeypatch.setattr(reading, "PIECE", 5000)
    monkeypatch.setattr(reading, "SHARED", 400)
    assert text_ids(text, tokenizer) == (tokenizer(text, verbose=False)["input_ids"], True)


def test_enough_is_read_and_no_more(tokenizer, monkeypatch):
    monkeypatch.setattr(reading, "PIECE", 5000)
    text = read_text("excerpt", "test")
    whole = tokenizer(text, verbose=False)["input_ids"]
    ids, complete = text_ids(text, tokenizer, 3000)
    assert not complete
    assert 3000 <= len(ids) < 8000
    assert ids == whole[: len(ids)]
