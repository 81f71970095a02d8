from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import mindpress.demo
from mindpress.checkpoint.companions import load_tokenizer
from mindpress.engine.detokenize import BROKEN, Detokenizer

TOKENIZER = load_tokenizer(Path(mindpress.demo.__file__).parent / "tiny-llama")


def metaspace_tokenizer():
    """Decodes as Llama 2's does: words begin with a mark, the text's first mark is no space."""
    words = ["<unk>", "\u2581", "\u2581Hello", "\u2581world", "s", ",", "\u2581\u2581", "\u00e9"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


METASPACE = metaspace_tokenizer()


def pieces_of(tokenizer, ids):
    detokenizer = Detokenizer(tokenizer)
    return [detokenizer.push(token) for token in ids], detokenizer.finish()


def decoded(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@given(st.lists(st.integers(0, 4095), max_size=60))
def test_any_tokens_give_the_decoded_whole(ids):
    pieces, rest = pieces_of(TOKENIZER, ids)
    assert "".join(pieces) + rest == decoded(TOKENIZER, ids)


@given(st.text(max_size=80))
def test_any_text_comes_back_and_never_broken(text):
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    pieces, rest = pieces_of(TOKENIZER, ids)
    assert "".join(pieces) + rest == decoded(TOKENIZER, ids)
    if BROKEN not in decoded(TOKENIZER, ids):
        assert not any(BROKEN in piece for piece in pieces)


@given(st.lists(st.integers(0, 7), max_size=30))
def test_a_tokenizer_that_treats_the_first_word_otherwise(ids):
    pieces, rest = pieces_of(METASPACE, ids)
    assert "".join(pieces) + rest == decoded(METASPACE, ids)


def test_an_emoji_is_held_back_until_it_is_whole():
    ids = TOKENIZER.encode("a \N{GRINNING FACE} b", add_special_tokens=False)
    pieces, _ = pieces_of(TOKENIZER, ids)
    assert "\N{GRINNING FACE}" in pieces
    assert len(pieces) > len("a \N{GRINNING FACE} b"), "the emoji is of several tokens"


def test_a_character_cut_in_the_middle_comes_with_finish():
    ids = TOKENIZER.encode("\N{GRINNING FACE}", add_special_tokens=False)[:-1]
    pieces, rest = pieces_of(TOKENIZER, ids)
    assert "".join(pieces) == ""
    assert set(rest) == {BROKEN}


def test_bytes_that_never_become_text_are_not_held_back_for_ever():
    continuation = TOKENIZER.encode("\N{GRINNING FACE}", add_special_tokens=False)[-1]
    pieces, _ = pieces_of(TOKENIZER, [continuation] * 10)
    assert "".join(pieces)


@pytest.mark.parametrize("special", [1, 2, 3, 4])
def test_special_tokens_are_not_text(special):
    ids = [special, *TOKENIZER.encode("one two", add_special_tokens=False), special]
    pieces, rest = pieces_of(TOKENIZER, ids)
    assert "".join(pieces) + rest == "one two"
