"""Small tokenizers of every kind that models have, trained on the spot."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.stress.random_text import random_text

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_end|>"]
MARK = "\u2581"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _texts() -> list[str]:
    draw = Random(0)
    plain = ["the river of the city was long and the history of it, don't you see? " * 3] * 20
    return [*plain, *(random_text(draw) for _ in range(200))]


def byte_level() -> Tokenizer:
    """As GPT-2's, Llama 3's and Qwen's: every byte is a letter of the alphabet."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return tokenizer


def _llama2(fallback: bool, *, strips: bool) -> Tokenizer:
    """As Llama 2's: a mark for every space, and one before the text that decoding takes away."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", MARK)
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=[*SPECIAL, *BYTES], limit_alphabet=80, show_progress=False
    )
    trained.train_from_iterator(_texts()[:20], trainer)
    merges = [tuple(pair) for pair in _merges(trained)]
    model = models.BPE(
        trained.get_vocab(), merges, unk_token="<unk>", byte_fallback=fallback, fuse_unk=True
    )
    tokenizer = Tokenizer(model)
    prepend = [normalizers.Prepend(MARK)] if strips else []
    tokenizer.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", MARK)])
    steps = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    if strips:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def _merges(tokenizer: Tokenizer) -> Any:
    return json.loads(tokenizer.to_str())["model"]["merges"]


def metaspace() -> Tokenizer:
    """As T5's: a Unigram model with a space before the first word, and no bytes."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(_texts()[:20], trainer)
    return tokenizer


def word_piece() -> Tokenizer:
    """As BERT's: its decoder joins pieces and closes spaces before punctuation."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(_texts(), trainer)
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level BPE": byte_level,
    "BPE with byte fallback, leading space": lambda: _llama2(True, strips=True),
    "BPE with byte fallback": lambda: _llama2(True, strips=False),
    "BPE without bytes, leading space": lambda: _llama2(False, strips=True),
    "Unigram with metaspace": metaspace,
    "WordPiece": word_piece,
}


def small_tokenizer(kind: str) -> Any:
    """The transformers tokenizer of a kind."""
    return PreTrainedTokenizerFast(
        tokenizer_object=KINDS[kind](), unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=["<|im_end|>"],
    )  # fmt: skip
