"""Tokens after a prompt, one at a time."""

from collections.abc import Collection, Iterator, Mapping
from typing import Literal

from mindpress.engine.config import GenerationConfig
from mindpress.engine.decoder import Decoder
from mindpress.engine.memory import device_errors
from mindpress.engine.sampling import Sampler
from mindpress.engine.sequence import CachedSequence, check_prompt

# eos: the model ended it; stop: a stop text; length: --max-new-tokens; context: no room is left;
# interrupted: the reader stopped reading.
Finish = Literal["eos", "stop", "length", "context", "interrupted"]


class Generation(Iterator[int]):
    """The tokens of an answer, computed as they are asked for. `finish` says why it ended.

    The token that ends it is not given. `reused` counts prompt tokens that were read before.
    """

    def __init__(
        self,
        sequence: CachedSequence,
        prompt_ids: list[int],
        sampler: Sampler,
        limit: int,
        eos_ids: Collection[int],
    ) -> None:
        self.finish: Finish | None = None
        self.reused = sequence.rewind(prompt_ids)
        self._sequence, self._sampler, self._eos_ids = sequence, sampler, eos_ids
        self._unread = prompt_ids[self.reused :]
        self._left = limit
        sampler.see(prompt_ids)

    def __next__(self) -> int:
        if self.finish is not None:
            raise StopIteration
        with device_errors():
            token = self._sampler(self._sequence.feed(self._unread))
        if token in self._eos_ids:
            self.finish = "eos"
            raise StopIteration
        self._unread = [token]
        self._left -= 1
        if self._left == 0:
            self.finish = "length"
        elif len(self._sequence.ids) >= self._sequence.limit:
            self.finish = "context"
        return token


def generate(
    decoder: Decoder,
    prompt_ids: list[int],
    config: GenerationConfig,
    eos_ids: Collection[int] = (),
    *,
    defaults: Mapping[str, int | float] | None = None,
    sequence: CachedSequence | None = None,
) -> Generation:
    """Begin an answer to `prompt_ids`. Nothing is computed before the first token is asked for.

    `defaults` are the model's own sampling values. A `sequence` of the same decoder keeps what it
    has in common with the prompt. `config.stop` is text and is heeded where tokens become text
    (`stream.TextStream`). ConfigError when the prompt does not fit the context.
    """
    check_prompt(decoder, prompt_ids)
    sampler = Sampler(config.sampling(defaults), config.seed, decoder.shape.vocab)
    ends = () if config.ignore_eos else frozenset(eos_ids)
    return Generation(
        sequence or CachedSequence(decoder), prompt_ids, sampler, config.max_new_tokens, ends
    )
