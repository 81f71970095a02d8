"""How keys and values are kept in a cache, as one frozen value. Cheap to import: no torch."""

from dataclasses import dataclass
from typing import Literal

from mindpress.errors import ConfigError

Granularity = Literal["tensor", "head", "channel", "token"]
BITS = (4, 8)


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """Codes of `bits` bits, and what shares a scale.

    `tensor` and `head` are calibrated ranges of a layer or of its heads; `channel` are calibrated
    ranges of every key channel, the values being scaled per token and head; `token` needs no
    calibration: every token and head has its own scale. `symmetric` ranges have zero in the
    middle and need no zero point.
    """

    bits: int
    symmetric: bool = False
    granularity: Granularity = "token"

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ConfigError(f"--kv-bits {self.bits}: a cache has 8 or 4", hint="use 8 or 4")

    @property
    def middle(self) -> int:
        """The code of the zero point: 128 or 8."""
        return 2 ** (self.bits - 1)

    @property
    def largest(self) -> int:
        """The largest code: 255 or 15."""
        return 2**self.bits - 1
