"""An answer that was asked for: what it has so far, and where it stands in the queue."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal

# eos: the model ended it; stop: a stop text; length: its limit of new tokens; context: no room is
# left; cancelled: nobody wants it any more.
Finish = Literal["eos", "stop", "length", "context", "cancelled"]
State = Literal["waiting", "running", "finished"]


@dataclass(slots=True, eq=False)
class Request:
    """At most `limit` new tokens after `prompt`. All but the first five fields are the scheduler's.

    `ids` are all tokens so far; the keys and values of the first `computed` are stored in `pages`.
    Full pages may change for others of the same content when a step is complete. `offered` of them
    were offered to the pool's index. Requests of different `salt` share no pages. `reused` tokens
    of the prompt were found in the cache when it first ran. `owner` is for whoever samples.
    """

    id: int | str
    prompt: tuple[int, ...]
    limit: int
    salt: Hashable = None
    owner: object = None
    ids: list[int] = field(init=False)
    pages: list[int] = field(init=False, default_factory=list)
    computed: int = field(init=False, default=0)
    offered: int = field(init=False, default=0)
    arrival: int = field(init=False, default=-1)
    state: State = field(init=False, default="waiting")
    finish: Finish | None = field(init=False, default=None)
    reused: int = field(init=False, default=0)
    preemptions: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.ids = list(self.prompt)

    @property
    def unread(self) -> int:
        """Tokens that are still to be computed; 1 when only the newest is."""
        return len(self.ids) - self.computed

    @property
    def new_tokens(self) -> int:
        """Tokens after the prompt."""
        return len(self.ids) - len(self.prompt)
