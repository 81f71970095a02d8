"""How many pages the cache of a runtime gets."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from mindpress.engine.cache_plan import CachePlan, PagePlace
from mindpress.engine.config import EngineConfig
from mindpress.engine.context import context_length
from mindpress.engine.runtime import Memory
from mindpress.engine.scheduler import Limits
from mindpress.errors import ConfigError
from mindpress.events import Listener, Note, ignore
from mindpress.kernels.paged import PagedOperations
from mindpress.memory import available_bytes
from mindpress.models.shape import ModelShape


@runtime_checkable
class Caching(Protocol):
    """What a cache is made for: a decoder, or what is known of one before it is loaded."""

    @property
    def shape(self) -> ModelShape: ...
    @property
    def cache_plan(self) -> CachePlan: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...


@dataclass(frozen=True, slots=True)
class Room:
    """So many pages of so many bytes, for sequences of up to `longest` tokens."""

    pages: int
    page_bytes: int
    longest: int


def plan_memory(
    decoder: Caching, config: EngineConfig, operations: PagedOperations, listener: Listener = ignore
) -> tuple[Memory, Limits]:
    """The cache that `config` allows and the limits it sets; see `plan_room`."""
    room, tokens = plan_room(decoder, config, operations, listener=listener), operations.page_tokens
    place = PagePlace(decoder.device, operations.by_channel)
    size = room.pages, tokens
    made = decoder.cache_plan.new_pages(decoder.shape, size, decoder.dtype, place)
    limits = Limits(config.max_batch_size, config.max_prefill_token_num, room.longest)
    return Memory(made, room.pages, tokens), limits


def plan_room(
    decoder: Caching,
    config: EngineConfig,
    operations: PagedOperations,
    taken: int = 0,
    listener: Listener = ignore,
) -> Room:
    """The room that `config` gives the cache when `taken` bytes more are taken than now.

    No more pages than `max_batch_size` sequences of `session_len` tokens could fill. ConfigError
    when `session_len` is above the model's context, or the memory holds not one page; a Note when
    it holds less than one sequence of full length.
    """
    longest = session_length(decoder.shape, config)
    tokens = operations.page_tokens
    page = bytes_per_page(decoder, operations)
    budget = _budget(decoder.device, config, taken)
    per_sequence = -(-longest // tokens)
    pages = min(budget // page, per_sequence * config.max_batch_size)
    if pages < 1:
        raise ConfigError(
            f"the cache may take {budget:,} bytes, a page of {tokens} tokens takes {page:,}",
            hint="raise --cache-memory or --cache-max-entry-count, or use --quant-policy 4",
        )
    if pages < per_sequence:
        listener(
            Note(
                f"the cache holds {pages * tokens} tokens, less than one sequence of {longest};"
                f" --session-len is {pages * tokens}"
            )
        )
        longest = pages * tokens
    return Room(pages, page, longest)


def bytes_per_page(decoder: Caching, operations: PagedOperations) -> int:
    """Bytes of a page in all layers, scales included."""
    place = PagePlace(torch.device("meta"), operations.by_channel)
    size = 1, operations.page_tokens
    made = decoder.cache_plan.new_pages(decoder.shape, size, decoder.dtype, place)
    return sum(layer.nbytes for layer in made)


def session_length(shape: ModelShape, config: EngineConfig) -> int:
    """Tokens of a sequence. ConfigError when the model's context holds fewer."""
    context = context_length(shape)
    if config.session_len is not None and config.session_len > context:
        raise ConfigError(
            f"--session-len {config.session_len}: the model's context holds {context} tokens",
            hint="lower --session-len",
        )
    return config.session_len or context


def _budget(device: torch.device, config: EngineConfig, taken: int) -> int:
    if config.cache_memory is not None:
        return config.cache_memory
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
    return int(max(0, free - taken) * config.cache_max_entry_count)
