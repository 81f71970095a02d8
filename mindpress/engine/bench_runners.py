"""What runs the requests of a measurement and says when each token came."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from mindpress.engine.bench_figures import Trace
from mindpress.engine.bench_workload import Task, Workload
from mindpress.engine.config import GenerationConfig
from mindpress.engine.runtime import Answer, Runtime
from mindpress.errors import ResourceError

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Description:
    """What a model runs on and how, for people."""

    engine: str
    dtype: str
    weights: str
    cache: str


@runtime_checkable
class Runner(Protocol):
    """A model in memory that answers."""

    @property
    def description(self) -> Description:
        """How it runs."""
        ...

    def run(self, work: Workload) -> list[Trace]:
        """Answer all tasks, greedily and to their full length; traces in their order."""
        ...

    def close(self) -> None:
        """End what runs beside this process."""
        ...


@dataclass(slots=True)
class _Live:
    """A request under way."""

    place: int
    task: Task
    begun: float
    tokens: list[float] = field(default_factory=list)

    def trace(self, reused: int) -> Trace:
        return Trace(len(self.task.prompt), self.begun, tuple(self.tokens), reused)


class RuntimeRunner:
    """Our engine. When a request ends the next one is handed over, before the next step."""

    def __init__(self, runtime: Runtime, clock: Clock = time.perf_counter) -> None:
        self._runtime, self._clock = runtime, clock

    @property
    def description(self) -> Description:
        """How it runs."""
        decoder = self._runtime.decoder
        dtype = str(decoder.dtype).removeprefix("torch.")
        cache = decoder.cache_plan.describe(decoder.dtype)
        return Description("mindpress", dtype, decoder.weights, cache)

    def run(self, work: Workload) -> list[Trace]:
        """Traces of all tasks. ResourceError when the cache cannot hold one of them."""
        traces: dict[int, Trace] = {}
        waiting = deque(enumerate(work.tasks))
        live: dict[Answer, _Live] = {}
        try:
            while waiting or live:
                while waiting and len(live) < work.at_once:
                    place, task = waiting.popleft()
                    begun = self._clock()
                    live[self._added(task)] = _Live(place, task, begun)
                for answer in self._stepped(live):
                    done = live.pop(answer)
                    traces[done.place] = done.trace(answer.reused)
        finally:
            for answer in live:
                self._runtime.end(answer)
        return [traces[place] for place in range(len(work.tasks))]

    def close(self) -> None:
        """End the processes of a tensor-parallel run."""
        self._runtime.close()

    def _added(self, task: Task) -> Answer:
        greedy = GenerationConfig(task.answer, 0.0, repetition_penalty=1.0, ignore_eos=True)
        return self._runtime.add(task.prompt, greedy)

    def _stepped(self, live: dict[Answer, _Live]) -> list[Answer]:
        """Compute one step; the answers that are complete."""
        told = self._runtime.step()
        now = self._clock()
        for answer in told:
            times = live[answer].tokens
            times += [now] * (len(answer.tokens) - len(times))
        done = [answer for answer in told if answer.finish is not None]
        for answer in done:
            _check_complete(len(answer.tokens), live[answer].task)
        return done


def _check_complete(tokens: int, task: Task) -> None:
    if tokens < task.answer:
        raise ResourceError(
            f"the cache was full after {tokens} of {task.answer} tokens of an answer",
            hint="raise --cache-memory or --cache-max-entry-count, or lower --output-len",
        )
