"""What long work says while it runs. The library emits events; only `cli` prints them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence the user should read: a clamped value, a layer left in 16 bits."""

    text: str
    level: Literal["note", "warning"] = "note"


@dataclass(frozen=True, slots=True)
class Started:
    """Work of `total` steps begins, for example 32 layers to quantize."""

    what: str
    total: int
    unit: str = "layer"


@dataclass(frozen=True, slots=True)
class Advanced:
    """`done` steps of the work named by the last `Started` are finished.

    `detail` names what was just finished; `figures` are its numbers (errors, seconds).
    """

    done: int
    detail: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finished:
    """The work named by the last `Started` is complete."""

    seconds: float


Event = Note | Started | Advanced | Finished
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener for callers that do not care."""


def noting(listener: Listener) -> tuple[list[str], Listener]:
    """A list that fills with the sentences of the notes that the listener is told."""
    notes: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)
        listener(event)

    return notes, listen
