"""A model on disk -> a runtime that answers."""

from mindpress.engine.config import EngineConfig
from mindpress.engine.loader import load_decoder
from mindpress.engine.page_plan import plan_memory
from mindpress.engine.runtime import Runtime
from mindpress.events import Listener, ignore
from mindpress.kernels.paged import paged_operations
from mindpress.sources.source import ModelSource


def open_runtime(source: ModelSource, config: EngineConfig, listener: Listener = ignore) -> Runtime:
    """Read the weights and take the memory of the cache. Errors are those of both."""
    decoder = load_decoder(source, config, listener)
    operations = paged_operations(decoder.kernels)
    memory, limits = plan_memory(decoder, config, operations, listener)
    return Runtime(decoder, memory, operations, limits)
