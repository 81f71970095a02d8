"""Rows of tokens, all of one length, drawn from text by a seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from mindpress.calib.text_ids import text_ids
from mindpress.errors import InputError
from mindpress.events import Listener, Note, ignore

MOST_DOCUMENTS = 20_000
LONGEST_SHORT_DOCUMENT = 512
# Longer in characters than this is surely longer in tokens than a short document may be.
SHORT_DOCUMENT_CHARACTERS = 16 * LONGEST_SHORT_DOCUMENT


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many rows of how many tokens, from which set (for messages), by which seed."""

    dataset: str
    samples: int
    length: int
    seed: int

    @property
    def tokens(self) -> int:
        return self.samples * self.length

    @property
    def characters(self) -> int:
        """Enough text to draw from: about four times the tokens wanted, or a mebi-character."""
        return max(2**20, 16 * self.tokens)


def tokenize(text: str, tokenizer: Any) -> Int64[Tensor, " tokens"]:
    """Token ids of a long text, with the tokenizer's special tokens once."""
    return torch.tensor(text_ids(text, tokenizer)[0], dtype=torch.int64)


def random_windows(
    text: str, tokenizer: Any, wanted: Wanted, listener: Listener = ignore
) -> Int64[Tensor, "samples length"]:
    """Windows at random places of a text that is tokenized once; they may overlap."""
    tokens = tokenize(text, tokenizer)
    found, length = len(tokens), wanted.length
    if found < length:
        _refuse_short(wanted.dataset, f"{found} tokens", found, length)
    if found < wanted.tokens:
        listener(
            Note(
                f"{wanted.dataset}: {found:,} tokens are fewer than {wanted.samples} windows of"
                f" {length}, so windows overlap"
            )
        )
    draw = Random(wanted.seed)
    starts = [draw.randint(0, found - length) for _ in range(wanted.samples)]
    return torch.stack([tokens[start : start + length] for start in starts])


def long_documents(
    documents: Iterator[str], tokenizer: Any, wanted: Wanted
) -> Int64[Tensor, "samples length"]:
    """One window from each of random documents that hold a whole one (c4).

    When fewer documents than samples do, they give several windows each.
    """
    draw, length = Random(wanted.seed), wanted.length
    candidates = [
        text for text in islice(documents, MOST_DOCUMENTS) if len(text.encode()) >= length
    ]
    draw.shuffle(candidates)
    rows: list[Tensor] = []
    longest = 0
    for text in candidates:
        tokens = tokenize(text, tokenizer)
        longest = max(longest, len(tokens))
        if len(tokens) >= length:
            rows.append(tokens)
        if len(rows) == wanted.samples:
            break
    if not rows:
        _refuse_short(wanted.dataset, f"no document of more than {longest} tokens", longest, length)
    chosen = [rows[number % len(rows)] for number in range(wanted.samples)]
    starts = [draw.randint(0, len(tokens) - length) for tokens in chosen]
    return torch.stack(
        [tokens[start : start + length] for tokens, start in zip(chosen, starts, strict=True)]
    )


def short_documents(
    documents: Iterator[str], tokenizer: Any, wanted: Wanted
) -> Int64[Tensor, "samples length"]:
    """Random documents of at most 512 tokens, one after the other, cut into rows (pileval)."""
    texts = [
        text
        for text in islice(documents, MOST_DOCUMENTS)
        if len(text) <= SHORT_DOCUMENT_CHARACTERS and text.strip()
    ]
    Random(wanted.seed).shuffle(texts)
    rows: list[Tensor] = []
    found = 0
    for text in texts:
        tokens = tokenize(text.strip(), tokenizer)
        if len(tokens) <= LONGEST_SHORT_DOCUMENT:
            rows.append(tokens)
            found += len(tokens)
        if found >= wanted.tokens:
            return torch.cat(rows)[: wanted.tokens].view(wanted.samples, wanted.length)
    raise InputError(
        f"{wanted.dataset}: {found} tokens in documents of at most {LONGEST_SHORT_DOCUMENT},"
        f" {wanted.samples} samples of {wanted.length} need {wanted.tokens}",
        hint="lower --calib-samples or --calib-seqlen",
    )


def _refuse_short(dataset: str, found: str, tokens: int, length: int) -> None:
    if tokens <= 1:
        raise InputError(f"{dataset}: holds no text ({found})", hint="give a longer text")
    raise InputError(
        f"{dataset}: {found}, a window needs {length}",
        hint=f"lower --calib-seqlen to {tokens} or less, or give a longer text",
    )
