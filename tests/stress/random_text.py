"""Random Unicode text, as hard for a detokenizer as text can be."""

from random import Random

SURROGATES = range(0xD800, 0xE000)
LAST = 0x10FFFF
PLANES = ((0x20, 0x7F), (0xA0, 0x250), (0x370, 0x700), (0x900, 0xE00), (0x2000, 0x2C00),
          (0x3040, 0x3100), (0x4E00, 0x9FFF), (0xAC00, 0xD7A4), (0xE000, 0xFFFE),
          (0x10000, 0x1FFFF), (0x1F300, 0x1FAFF), (0x20000, 0x2FA20), (0xE0100, 0xE01F0),
          (0x100000, LAST))  # fmt: skip
PIECES = (
    "the", " ", "  ", "\n", "\t", "\r\n", " of", ",", "<s>", "</s>", "<|im_end|>", "\u2581",
    "\u0120",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",  # a family, joined
    "\U0001f1e9\U0001f1ea", "\U0001f44d\U0001f3fd", "\u2764\ufe0f", "e\u0301\u0323", "\u0308",
    "\u200f\u05e9\u05dc\u05d5\u05dd", "\u0e01\u0e33", "\ufb03", "\ufeff", "\u0000", "\u2028",
    "\ufffd", "\ufffd\ufffd\ufffd", "a\ufffd", "<0x41>", "<0xE2>", "\x1b[31m", "don't", " 's",
)  # fmt: skip


def random_text(draw: Random, longest: int = 24) -> str:
    """A text of up to `longest` parts: code points of every plane and hard sequences."""
    return "".join(_part(draw) for _ in range(draw.randint(0, longest)))


def _part(draw: Random) -> str:
    if draw.random() < 0.3:
        return draw.choice(PIECES)
    bounds = (0, LAST) if draw.random() < 0.1 else draw.choice(PLANES)
    point = draw.randint(*bounds)
    return "\u00e9" if point in SURROGATES else chr(point)
