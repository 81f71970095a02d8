"""How many pages the cache of a runtime gets."""

import torch

from mindpress.engine.cache_plan import PagePlace
from mindpress.engine.config import EngineConfig
from mindpress.engine.context import context_length
from mindpress.engine.decoder import Decoder
from mindpress.engine.runtime import Memory
from mindpress.engine.scheduler import Limits
from mindpress.errors import ConfigError
from mindpress.events import Listener, Note, ignore
from mindpress.kernels.paged import PagedOperations
from mindpress.memory import available_bytes
from mindpress.models.shape import ModelShape


def plan_memory(
    decoder: Decoder, config: EngineConfig, operations: PagedOperations, listener: Listener = ignore
) -> tuple[Memory, Limits]:
    """The cache that `config` allows and the limits it sets.

    No more pages than `max_batch_size` sequences of `session_len` tokens could fill. ConfigError
    when `session_len` is above the model's context, or the memory holds not one page; a Note when
    it holds less than one sequence of full length.
    """
    longest = session_length(decoder.shape, config)
    tokens = operations.page_tokens
    page = bytes_per_page(decoder, operations)
    budget = _budget(decoder.device, config)
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
    place = PagePlace(decoder.device, operations.by_channel)
    made = decoder.cache_plan.new_pages(decoder.shape, (pages, tokens), decoder.dtype, place)
    limits = Limits(config.max_batch_size, config.max_prefill_token_num, longest)
    return Memory(made, pages, tokens), limits


def bytes_per_page(decoder: Decoder, operations: PagedOperations) -> int:
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


def _budget(device: torch.device, config: EngineConfig) -> int:
    if config.cache_memory is not None:
        return config.cache_memory
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
    return int(free * config.cache_max_entry_count)
