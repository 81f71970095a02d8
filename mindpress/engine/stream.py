"""Tokens of an answer -> its text, piece by piece."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mindpress.engine.answer_text import AnswerText
from mindpress.engine.generate import Finish, Tokens


@dataclass(frozen=True, slots=True)
class AnswerStats:
    """What an answer cost. `reused_tokens` of the prompt were in the cache already.

    `seconds_to_first_token` runs from the question; `tokens_per_second` counts the tokens after
    the first, and is 0 when there were none.
    """

    prompt_tokens: int
    reused_tokens: int
    new_tokens: int
    seconds_to_first_token: float
    tokens_per_second: float
    finish: Finish


class TextStream(Iterator[str]):
    """Pieces of text, never empty, without the stop text and without half a character."""

    def __init__(self, generation: Tokens, tokenizer: Any, stop: Sequence[str]) -> None:
        self._generation, self._text = generation, AnswerText(tokenizer, stop)
        self._begun = time.perf_counter()
        self._first = self._last = self._begun
        self._tokens = 0
        self._ended = False

    @property
    def finish(self) -> Finish:
        """Why the text ended."""
        return "stop" if self._text.stopped else self._generation.finish or "interrupted"

    def __next__(self) -> str:
        while not self._ended:
            piece = self._next_piece()
            self._ended |= self._text.stopped
            if piece:
                return piece
        raise StopIteration

    def stats(self, prompt_tokens: int) -> AnswerStats:
        """Figures of the answer so far."""
        seconds = self._last - self._first
        return AnswerStats(
            prompt_tokens=prompt_tokens,
            reused_tokens=self._generation.reused,
            new_tokens=self._tokens,
            seconds_to_first_token=self._first - self._begun,
            tokens_per_second=(self._tokens - 1) / seconds if seconds > 0 else 0.0,
            finish=self.finish,
        )

    def _next_piece(self) -> str:
        token = next(self._generation, None)
        if token is None:
            self._ended = True
            return self._text.finish()
        self._last = time.perf_counter()
        self._tokens += 1
        if self._tokens == 1:
            self._first = self._last
        return self._text.push(token)
