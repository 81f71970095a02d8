"""Rotary position embedding of every kind, with the frequencies transformers computes.

Source: Su et al. 2021, "RoFormer", section 3.2.2; the scaled kinds are those of
`transformers.modeling_rope_utils` (linear, dynamic NTK, yarn, longrope, llama3).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mindpress.errors import InputError
from mindpress.models.shape import ModelShape

# Their trained length is a number of its own in the config, by default the model's maximum.
WITH_ORIGINAL_LENGTH = ("llama3", "yarn", "longrope")
ORIGINAL = "original_max_position_embeddings"
Table = Float[Tensor, "length rotary"]


@dataclass(frozen=True, slots=True)
class Span:
    """`count` tokens of a text from position `begin`; it has `total` tokens so far, the first
    `prompt` of which were there from the beginning."""

    begin: int
    count: int
    prompt: int
    total: int


@dataclass(frozen=True)
class RopeConfig:
    """What the functions of transformers read from a model's config."""

    rope_parameters: dict[str, Any]
    head_dim: int
    hidden_size: int
    num_attention_heads: int
    max_position_embeddings: int

    def standardize_rope_params(self) -> None:
        """Nothing to do: `rope_config` wrote the present spelling."""


class Rotary:
    """Cosines and sines for positions.

    Two kinds depend on how long the text is: dynamic rescales with every token past the trained
    length, longrope changes to a second set of factors there.
    """

    def __init__(self, shape: ModelShape, device: torch.device, dtype: torch.dtype) -> None:
        self._shape, self._device, self._dtype = shape, device, dtype
        parameters = rope_config(shape).rope_parameters
        self._trained = shape.max_length
        if shape.rope.kind == "longrope":
            self._trained = int(parameters[ORIGINAL])
        self._known = {0: self._frequencies(None)}
        if shape.rope.kind == "longrope":
            # Needed late in a text, but tried when the model opens.
            self._known[1] = self._frequencies(self._trained + 1)

    def regime(self, length: int) -> int:
        """Cached keys of a text in one regime are of no use in another."""
        return int(self._shape.rope.kind == "longrope" and length > self._trained)

    def salt(self, prompt: int, total: int) -> tuple[int, int]:
        """Texts of different salts must not share keys: their angles differ.

        A prompt past the trained length of the dynamic kind has those of its own length.
        """
        dynamic = self._shape.rope.kind == "dynamic" and prompt > self._trained
        return self.regime(total), prompt if dynamic else 0

    def tables(self, start: int, length: int, horizon: int) -> tuple[Table, Table]:
        """Cosines and sines of `length` positions from `start`, in a text of `horizon` tokens."""
        frequencies, factor = self._frequencies_at(horizon)
        positions = torch.arange(start, start + length, device=self._device, dtype=torch.float32)
        return self._turned(positions, frequencies, factor)

    def rows(self, spans: Sequence[Span]) -> tuple[Table, Table]:
        """The same for the tokens of several texts, one span after the other."""
        if all(span.total <= self._trained for span in spans) or not self._varies:
            pieces = [torch.arange(span.begin, span.begin + span.count) for span in spans]
            positions = torch.cat(pieces).to(self._device, torch.float32)
            return self._turned(positions, *self._known[0])
        tables = [
            self.tables(begin, count, horizon)
            for span in spans
            for begin, count, horizon in self._runs(span)
        ]
        cosines, sines = zip(*tables, strict=True)
        return torch.cat(cosines), torch.cat(sines)

    @property
    def _varies(self) -> bool:
        return self._shape.rope.kind in ("dynamic", "longrope")

    def _runs(self, span: Span) -> Iterator[tuple[int, int, int]]:
        """Begin, count and horizon of runs of tokens with the same frequencies.

        With the dynamic kind the tokens of the prompt have those of its length; each token after it
        has those of the text up to itself, whether it is read now or again.
        """
        if self._shape.rope.kind == "longrope":
            yield span.begin, span.count, span.total
            return
        together = max(0, min(span.count, span.prompt - span.begin))
        if together:
            yield span.begin, together, span.prompt
        for position in range(span.begin + together, span.begin + span.count):
            yield position, 1, position + 1

    def _turned(self, positions: Tensor, frequencies: Tensor, factor: float) -> tuple[Table, Table]:
        angles = torch.outer(positions, frequencies)
        angles = torch.cat((angles, angles), dim=-1)
        cosines, sines = angles.cos() * factor, angles.sin() * factor
        return cosines.to(self._dtype), sines.to(self._dtype)

    def _frequencies_at(self, horizon: int) -> tuple[Tensor, float]:
        if self._shape.rope.kind == "dynamic" and horizon > self._trained:
            return self._frequencies(horizon)
        return self._known[self.regime(horizon)]

    def _frequencies(self, length: int | None) -> tuple[Tensor, float]:
        frequencies, factor = frequencies_of(self._shape, length)
        return frequencies.to(self._device), factor


def rotate(
    x: Float[Tensor, "*heads channels"], cosines: Tensor, sines: Tensor
) -> Float[Tensor, "*heads channels"]:
    """Turn the pairs (i, i + rotary / 2) of the first `rotary` channels by their angles.

    `cosines` and `sines` [..., rotary] are broadcast to `x`.
    """
    rotary = cosines.shape[-1]
    if rotary < x.shape[-1]:
        turned = rotate(x[..., :rotary], cosines, sines)
        return torch.cat((turned, x[..., rotary:]), dim=-1)
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat((-second, first), dim=-1) * sines


def rope_config(shape: ModelShape) -> RopeConfig:
    """The shape in the words of transformers 5."""
    parameters = {
        **shape.rope.parameters,
        "rope_theta": shape.rope.theta,
        "rope_type": shape.rope.kind,
        # Fractions of the head that are rotated round to `rotary_dim` in the shape already.
        "partial_rotary_factor": shape.rotary_dim / shape.head_dim,
    }
    if shape.rope.kind in WITH_ORIGINAL_LENGTH:
        parameters.setdefault(ORIGINAL, shape.max_length)
    if shape.rope.kind == "yarn":
        parameters.setdefault("factor", None)
    return RopeConfig(parameters, shape.head_dim, shape.hidden, shape.heads, shape.max_length)


def frequencies_of(shape: ModelShape, length: int | None) -> tuple[Float[Tensor, " half"], float]:
    """Radians per token of each pair of channels, and the factor on cosines and sines.

    `length` is that of the text where the kind depends on it. Raises InputError when the config
    lacks something.
    """
    kind = shape.rope.kind
    if kind == "default":
        steps = torch.arange(0, shape.rotary_dim, 2, dtype=torch.float32) / shape.rotary_dim
        return 1.0 / shape.rope.theta**steps, 1.0
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    if kind not in ROPE_INIT_FUNCTIONS:
        known = ", ".join(sorted(ROPE_INIT_FUNCTIONS))
        raise InputError(f"config.json: rope type `{kind}` is not known", hint=f"known: {known}")
    try:
        frequencies, factor = ROPE_INIT_FUNCTIONS[kind](
            rope_config(shape),  # pyright: ignore[reportArgumentType]
            torch.device("cpu"),
            seq_len=length,
        )
    except KeyError as error:
        raise InputError(f"config.json: rope type `{kind}` lacks {error}") from None
    except (TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:
        raise InputError(f"config.json: parameters of rope type `{kind}`: {error}") from None
    return frequencies.float(), float(factor)
