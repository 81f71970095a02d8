"""Tokens -> text as they come, never half a character."""

import re
from codecs import getincrementaldecoder
from typing import Any

# A byte of a character that the vocabulary lacks, in tokenizers made by sentencepiece.
BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
BROKEN = "\N{REPLACEMENT CHARACTER}"
# An unfinished UTF-8 character has at most three bytes, each shown as one BROKEN.
MOST_UNFINISHED = 3


class Detokenizer:
    """Pieces of text whose concatenation is the decoded whole.

    Only the tokens since the last whole character, and those that gave it, are decoded again, so a
    long answer costs no more per token than a short one. (A tokenizer with `<0x..>` byte tokens
    decodes a run of them as one, all of it as BROKEN when a byte is amiss: of characters that were
    given before that byte came, no stream can know.)
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._new = 0
        self._given = ""
        self._utf8 = getincrementaldecoder("utf-8")()

    def push(self, token: int) -> str:
        """The text that `token` completes, often empty in the middle of a character."""
        byte = self._byte(token)
        if byte is not None and len(self._ids) == self._new:
            self._forget_bytes()
        self._ids.append(token)
        if byte is not None:
            return "" if self._is_half(byte) else self._given_whole(self._text(self._ids))
        self._utf8.reset()
        text = self._text(self._ids)
        unfinished = min(len(text) - len(text.rstrip(BROKEN)), MOST_UNFINISHED)
        return self._piece(text[:-unfinished]) if unfinished else self._given_whole(text)

    def finish(self) -> str:
        """What was held back: an unfinished character, as the tokenizer shows it."""
        return self._piece(self._text(self._ids))

    def _given_whole(self, text: str) -> str:
        piece = self._piece(text)
        if piece:
            # Decoders treat the first token of a text in their own way: one stays as context.
            self._ids = self._ids[self._new :]
            self._new, self._given = len(self._ids), self._text(self._ids)
        return piece

    def _forget_bytes(self) -> None:
        """Leave bytes of a whole character out of the context: with the first bytes of the next
        one they would be a run that is no UTF-8.
        """
        while self._ids and self._byte(self._ids[-1]) is not None:
            self._ids.pop()
        self._new, self._given = len(self._ids), self._text(self._ids)

    def _is_half(self, byte: bytes) -> bool:
        """Whether more bytes can make a character of it and those before it."""
        try:
            return not self._utf8.decode(byte)
        except UnicodeDecodeError:
            self._utf8.reset()
            return False

    def _byte(self, token: int) -> bytes | None:
        found = BYTE.fullmatch(self._tokenizer.convert_ids_to_tokens(token) or "")
        return bytes.fromhex(found[1]) if found else None

    def _piece(self, text: str) -> str:
        piece = text[len(self._given) :]
        if piece:
            self._given = text
        return piece

    def _text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
