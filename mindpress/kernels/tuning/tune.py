"""Time configurations on the device they are for, once."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from mindpress.events import Advanced, Finished, Listener, Started, ignore
from mindpress.kernels.tuning.key import Key
from mindpress.kernels.tuning.table import Table

Config = TypeVar("Config")
# Milliseconds of a launch with this configuration; infinite where it cannot run.
Clock = Callable[[Key, Config], float]


def tune_missing(
    table: Table,
    wanted: Mapping[Key, Sequence[Config]],
    clock: Clock[Config],
    listener: Listener = ignore,
) -> int:
    """Find the fastest of the candidates of every key that `table` lacks; how many those were.

    The table is saved after each key, so that an interrupted run goes on where it was.
    """
    missing = {
        key: configs
        for key, configs in wanted.items()
        if configs and table.get(key, type(configs[0])) is None
    }
    if not missing:
        return 0
    begun = time.perf_counter()
    listener(Started("tune kernels", len(missing), "shape"))
    for done, (key, configs) in enumerate(missing.items(), 1):
        times = [clock(key, config) for config in configs]
        best = min(range(len(configs)), key=times.__getitem__)
        if math.isfinite(times[best]):
            table.add({key: configs[best]})
        listener(Advanced(done, detail=str(key), figures={"ms": times[best]}))
    listener(Finished(time.perf_counter() - begun))
    return len(missing)
