"""Token ids of a long text, read piece by piece and yet those of the whole text."""

from dataclasses import dataclass
from typing import Any

# A fast tokenizer keeps about 200 bytes a character while it works: 26 MiB for a piece.
PIECE = 2**17
# Characters that neighbouring pieces share; they must agree on the middle half of them.
SHARED = 2**12


def text_ids(text: str, tokenizer: Any, enough: int | None = None) -> tuple[list[int], bool]:
    """The ids that `tokenizer(text)` gives, and whether they are all of them.

    With `enough`, ids after so many may be left out. Pieces are joined where both have the same
    tokens at the same places; until they do, the first one grows. A tokenizer that cannot tell
    places (a slow one) reads the text as a whole.
    """
    if not getattr(tokenizer, "is_fast", False):
        return list(tokenizer(text, verbose=False)["input_ids"]), True
    ids: list[int] = []
    begin, kept, end = 0, 0, PIECE
    piece = _piece(text[begin:end], begin, tokenizer)
    while end < len(text):
        if enough is not None and len(ids) >= enough:
            return ids, False
        low, high = end - SHARED * 3 // 4, end - SHARED // 4
        start, end = end - SHARED, end + PIECE
        following = _piece(text[start:end], start, tokenizer).since(low)
        shared = piece.between(low, high)
        if shared and shared == following.between(low, high):
            ids += piece.before(low)
            begin, kept, piece = start, low, following
        else:
            piece = _piece(text[begin:end], begin, tokenizer).since(kept)
    return ids + piece.ids, True


@dataclass(frozen=True, slots=True)
class _Piece:
    """Ids, and where in the whole text the characters of each begin."""

    ids: list[int]
    starts: list[int]

    def since(self, place: int) -> "_Piece":
        first = self._first(place)
        return _Piece(self.ids[first:], self.starts[first:])

    def before(self, place: int) -> list[int]:
        return self.ids[: self._first(place)]

    def between(self, low: int, high: int) -> list[tuple[int, int]]:
        pairs = zip(self.ids, self.starts, strict=True)
        return [(token, start) for token, start in pairs if low <= start < high]

    def _first(self, place: int) -> int:
        """Special tokens stand at the beginning of their piece, wherever they are."""
        return next((i for i, start in enumerate(self.starts) if start >= place), len(self.ids))


def _piece(text: str, begin: int, tokenizer: Any) -> _Piece:
    encoded = tokenizer(text, verbose=False, return_offsets_mapping=True)
    return _Piece(encoded["input_ids"], [begin + start for start, _ in encoded["offset_mapping"]])
