"""A model on disk -> a runtime that answers."""

from pathlib import Path

from mindpress.engine.config import EngineConfig
from mindpress.engine.decoder import Decoder
from mindpress.engine.loader import Share, load_decoder
from mindpress.engine.page_plan import plan_memory, session_length
from mindpress.engine.reshaped import lengthened, part_of
from mindpress.engine.runtime import Runtime
from mindpress.engine.runtime_plan import plan_runtime
from mindpress.engine.team import Team, add
from mindpress.events import Listener, Note, ignore
from mindpress.kernels.paged import paged_operations
from mindpress.sources.opening import open_source
from mindpress.sources.source import ModelSource
from mindpress.sources.workspace import Workspace


def open_runtime(path: Path, config: EngineConfig, listener: Listener = ignore) -> Runtime:
    """Read the weights and take the memory of the cache; with `tp` above 1, in as many processes.

    Errors are those of loading and of `plan_memory`.
    """
    source = open_source(path)
    session_length(lengthened(source, config.rope_scaling_factor).shape, config)
    if config.tp == 1:
        plan_runtime(path, source, config)  # refuses what it can before weights are read
        return _opened(source, config, listener)
    part_of(source, 0, config.tp)  # refuses before processes are started
    if isinstance(source, Workspace) and source.config.tp not in (1, config.tp):
        listener(
            Note(f"{path}: converted for tp {source.config.tp}, shared out anew for {config.tp}")
        )
    team = Team(path, config)
    try:
        with team.together():
            return _opened(source, config, listener, team)
    except BaseException:
        team.close()
        raise


def runtime_of(
    decoder: Decoder, config: EngineConfig, listener: Listener = ignore, team: Team | None = None
) -> Runtime:
    """A runtime of weights that are in memory; `config` says how large its cache is."""
    operations = paged_operations(decoder.kernels)
    memory, limits = plan_memory(decoder, config, operations, listener)
    return Runtime(decoder, memory, operations, limits, team, listener)


def _opened(
    source: ModelSource, config: EngineConfig, listener: Listener, team: Team | None = None
) -> Runtime:
    share = None if team is None else Share(0, config.tp, add)
    decoder = load_decoder(source, config, listener, share)
    on_gpu = decoder.kernels.name == "triton" and decoder.device.type == "cuda"
    if on_gpu and team is None:
        from mindpress.engine.tuned import use_tuned

        use_tuned(decoder, listener)
    runtime = runtime_of(decoder, config, listener, team)
    if on_gpu:
        from mindpress.engine.self_check import check_cache, check_products

        check_products(decoder)
        check_cache(decoder, runtime.memory.layers[0], paged_operations(decoder.kernels))
    if team is not None:
        team.tell((runtime.memory.pages, runtime.memory.tokens))
    return runtime
