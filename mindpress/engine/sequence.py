"""A growing text: the tokens a decoder has read, and their cache."""

import torch
from jaxtyping import Float
from torch import Tensor

from mindpress.engine.context import context_length
from mindpress.engine.decoder import Decoder
from mindpress.errors import ConfigError, InputError

# Longer inputs are read in pieces of this many tokens, which bounds masks and scores.
PIECE = 512


class CachedSequence:
    """Tokens in, logits of the next one out. What was read is never computed twice."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.ids: list[int] = []
        self._cache = decoder.new_cache()
        self._regime = 0

    @property
    def limit(self) -> int:
        """Tokens the model can attend to."""
        return context_length(self.decoder.shape)

    def rewind(self, prompt: list[int]) -> int:
        """Keep the common beginning with `prompt`, but for its last token; returns its length.

        The last token is left to be read, because its logits are what an answer begins with.
        """
        same = 0
        if self.decoder.rotary.regime(len(prompt)) == self._regime:
            same = _common(self.ids, prompt[:-1])
        self._keep(same)
        return same

    def feed(self, ids: list[int]) -> Float[Tensor, " vocab"]:
        """Read `ids`, at least one, and score the token after them.

        Peak memory: that of one piece of PIECE tokens.
        """
        total = len(self.ids) + len(ids)
        regime = self.decoder.rotary.regime(total)
        if regime != self._regime:
            ids = self.ids + ids
            self._keep(0)
            self._regime = regime
        pieces = [ids[begin : begin + PIECE] for begin in range(0, len(ids), PIECE)]
        for piece in pieces[:-1]:
            self._read(piece, total)
        return self.decoder.logits(self._read(pieces[-1], total)[0, -1])

    def _read(self, piece: list[int], total: int) -> Float[Tensor, "1 length hidden"]:
        hidden = self.decoder.hidden(torch.tensor([piece]), self._cache, total)
        self.ids += piece
        return hidden

    def _keep(self, count: int) -> None:
        del self.ids[count:]
        self._cache.truncate(count)


def _common(first: list[int], second: list[int]) -> int:
    """Tokens that both begin with."""
    pairs = zip(first, second, strict=False)
    return next(
        (place for place, (one, other) in enumerate(pairs) if one != other),
        min(len(first), len(second)),
    )


def check_prompt(decoder: Decoder, prompt: list[int]) -> None:
    """Refuse a prompt that is empty, longer than the context, or not of this vocabulary."""
    limit = context_length(decoder.shape)
    if not prompt:
        raise ConfigError("the prompt is empty", hint="write something")
    if len(prompt) > limit:
        raise ConfigError(
            f"the prompt has {len(prompt)} tokens, the model's context holds {limit}",
            hint="shorten it, or begin a new conversation",
        )
    check_ids(max(prompt), decoder.shape.vocab)


def check_ids(largest: int, vocab: int) -> None:
    """Refuse a tokenizer that gives tokens the model does not have."""
    if largest >= vocab:
        raise InputError(
            f"the tokenizer gives token {largest}, the model's last is {vocab - 1}",
            hint="the tokenizer and the weights are of different models",
        )
