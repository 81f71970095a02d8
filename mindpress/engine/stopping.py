"""Texts that end an answer, also when they come in pieces."""

from collections.abc import Sequence


class StopTexts:
    """Passes text on, but holds back what may be the beginning of a stop text.

    `found` is true once one of them came; nothing of it or after it is passed on.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self.found = False
        self._stop, self._held = tuple(stop), ""

    def push(self, piece: str) -> str:
        """The text that certainly belongs to the answer."""
        text = self._held + piece
        places = [place for place in map(text.find, self._stop) if place >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        keep = max((_begun(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held


def _begun(text: str, stop: str) -> int:
    """Characters at the end of `text` that are the beginning of `stop`."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)
