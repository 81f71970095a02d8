"""Tokens of one answer, computed as they are asked for."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from mindpress.engine.config import GenerationConfig
from mindpress.engine.runtime import Answer, Runtime

# eos: the model ended it; stop: a stop text; length: --max-new-tokens; context: no room is left;
# interrupted: the reader stopped reading.
Finish = Literal["eos", "stop", "length", "context", "interrupted"]


@runtime_checkable
class Tokens(Protocol):
    """An answer in tokens; `finish` says why it ended, None before it has."""

    @property
    def finish(self) -> Finish | None: ...
    @property
    def reused(self) -> int: ...
    def __next__(self) -> int: ...
    def __iter__(self) -> Iterator[int]: ...


class Generation(Iterator[int]):
    """The token that ends the answer is not given. `reused` counts prompt tokens that were in the
    cache already."""

    def __init__(self, runtime: Runtime, answer: Answer) -> None:
        self._runtime, self._answer, self._given = runtime, answer, 0

    @property
    def finish(self) -> Finish | None:
        """Why it ended."""
        finish = self._answer.finish
        return "interrupted" if finish == "cancelled" else finish

    @property
    def reused(self) -> int:
        """Known once the first token came."""
        return self._answer.reused

    def __next__(self) -> int:
        answer = self._answer
        with self._runtime.lock:
            while len(answer.tokens) == self._given and answer.finish is None:
                self._runtime.step()
            if len(answer.tokens) == self._given:
                raise StopIteration
            self._given += 1
            return answer.tokens[self._given - 1]

    def close(self) -> None:
        """Compute no more of it; its room is free for others."""
        self._runtime.end(self._answer)


def generate(
    runtime: Runtime,
    prompt_ids: Sequence[int],
    config: GenerationConfig,
    eos_ids: Collection[int] = (),
    *,
    defaults: Mapping[str, int | float] | None = None,
) -> Generation:
    """Begin an answer to `prompt_ids`. Nothing is computed before the first token is asked for.

    `defaults` are the model's own sampling values. `config.stop` is text and is heeded where tokens
    become text (`stream.TextStream`). ConfigError when the prompt does not fit the context.
    """
    return Generation(runtime, runtime.add(prompt_ids, config, eos_ids, defaults))
