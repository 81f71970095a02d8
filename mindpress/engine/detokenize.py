"""Tokens -> text as they come, never half a character."""

from typing import Any

BROKEN = "\N{REPLACEMENT CHARACTER}"
# An unfinished UTF-8 character has at most three bytes, each shown as one BROKEN.
MOST_UNFINISHED = 3


class Detokenizer:
    """Pieces of text whose concatenation is the decoded whole.

    Only the tokens since the last whole character, and those that gave it, are decoded again, so a
    long answer costs no more per token than a short one. (A tokenizer with `<0x..>` byte tokens
    decodes a run of them as one: bytes that are no UTF-8 may then come out otherwise than in the
    whole.)
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._new = 0
        self._given = ""

    def push(self, token: int) -> str:
        """The text that `token` completes, often empty in the middle of a character."""
        self._ids.append(token)
        text = self._text(self._ids)
        unfinished = min(len(text) - len(text.rstrip(BROKEN)), MOST_UNFINISHED)
        piece = self._piece(text[: len(text) - unfinished])
        if piece and not unfinished:
            # Decoders treat the first token of a text in their own way: one stays as context.
            self._ids = self._ids[self._new :]
            self._new, self._given = len(self._ids), self._text(self._ids)
        return piece

    def finish(self) -> str:
        """What was held back: an unfinished character, as the tokenizer shows it."""
        return self._piece(self._text(self._ids))

    def _piece(self, text: str) -> str:
        piece = text[len(self._given) :]
        if piece:
            self._given = text
        return piece

    def _text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
