"""Tokens of one answer -> its text as far as it is certain."""

from collections.abc import Sequence
from typing import Any

from mindpress.engine.detokenize import BROKEN, Detokenizer
from mindpress.engine.stopping import StopTexts


class AnswerText:
    """Pieces of text without the stop text and without half a character."""

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._detokenizer, self._stops = Detokenizer(tokenizer), StopTexts(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop text came; nothing after it is given."""
        return self._stops.found

    def push(self, token: int) -> str:
        """What `token` makes certain, often nothing."""
        return self._stops.push(self._detokenizer.push(token))

    def finish(self) -> str:
        """What was held back, when no more tokens come.

        An answer cut in the middle of a character ends before it.
        """
        piece = self._stops.push(self._detokenizer.finish().rstrip(BROKEN))
        return piece if self._stops.found else piece + self._stops.finish()
