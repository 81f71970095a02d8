"""Steps that only decode, captured as CUDA graphs: hundreds of launches become one.

A graph replays fixed addresses, so each has tensors of its own that a step is copied into, for a
bucket of sequences; rows that are too many belong to no sequence. Source: the scheme of nano-vllm
and vLLM ("CUDA graphs for decode, by batch size").
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mindpress.engine.paged import Places
from mindpress.engine.step_rows import StepRows
from mindpress.kernels.cache_attention.paged import PagedBatch

Logits = Float[Tensor, "sequences vocab"]
Compute = Callable[[StepRows], Logits]
# Runs a function once and gives its result, and what computes it again into the same memory.
Capture = Callable[[Callable[[], Logits]], tuple[Logits, Callable[[], None]]]
NO_SLOT = -1


@dataclass(frozen=True, slots=True)
class GraphLimits:
    """At most `sequences`, of at most `length` positions in `pages` pages each."""

    sequences: int
    length: int
    pages: int
    rotary: int


@dataclass(frozen=True, slots=True)
class _Graph:
    rows: StepRows
    logits: Logits
    replay: Callable[[], None]


class DecodeGraphs:
    """Captures a bucket when it is first needed; memory: its tensors, and one step's."""

    def __init__(
        self, compute: Compute, capture: Capture, limits: GraphLimits, like: torch.Tensor
    ) -> None:
        """`like` has the type and device of cosines."""
        self._compute, self._capture, self._limits, self._like = compute, capture, limits, like
        self._graphs: dict[int, _Graph] = {}

    def takes(self, rows: StepRows) -> bool:
        """Whether every sequence of the step has one row, and there are not too many."""
        sequences = len(rows.places.batch.lengths)
        every = rows.places.batch.most_rows == 1 and len(rows.asked) == len(rows.ids) == sequences
        return every and sequences <= self._limits.sequences

    def __call__(self, rows: StepRows) -> Logits:
        """The logits of every row. They are overwritten by the next call."""
        sequences = len(rows.ids)
        size = min(graph_size(sequences), self._limits.sequences)
        if size not in self._graphs:
            self._graphs[size] = self._captured(size)
        graph = self._graphs[size]
        _fill(graph.rows, rows)
        graph.replay()
        return graph.logits[:sequences]

    def _captured(self, size: int) -> _Graph:
        rows = self._empty(size)
        logits, replay = self._capture(lambda: self._compute(rows))
        return _Graph(rows, logits, replay)

    def _empty(self, size: int) -> StepRows:
        """A step in which no row belongs to a sequence."""
        like, limits = self._like, self._limits

        def integers(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=like.device)

        long = torch.int64
        batch = PagedBatch(
            starts=integers(size + 1),
            lengths=integers(size),
            table=integers(size, limits.pages),
            most_rows=1,
            longest=limits.length,
        )
        places = Places(
            like.new_zeros(size, limits.rotary),
            like.new_zeros(size, limits.rotary),
            torch.full((size,), NO_SLOT, dtype=long, device=like.device),
            batch,
        )
        asked = torch.arange(size, device=like.device)
        return StepRows(integers(size, dtype=long), places, asked)


def graph_size(sequences: int) -> int:
    """The bucket: 1, 2, 4, 8, then multiples of 8."""
    if sequences > 8:
        return -(-sequences // 8) * 8
    return 1 << (sequences - 1).bit_length()


def cuda_capture(compute: Callable[[], Logits]) -> tuple[Logits, Callable[[], None]]:
    """Capture on the current device. A first run outside the graph compiles what it launches."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        compute()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = compute()
    return logits, graph.replay


def _fill(graph: StepRows, rows: StepRows) -> None:
    """Rows past those of the step keep what they had, but belong to no sequence."""
    count, into, batch = len(rows.ids), graph.places, rows.places.batch
    graph.ids[:count].copy_(rows.ids)
    into.cosines[:count].copy_(rows.places.cosines)
    into.sines[:count].copy_(rows.places.sines)
    into.slots[:count].copy_(rows.places.slots)
    into.slots[count:].fill_(NO_SLOT)
    into.batch.starts[: count + 1].copy_(batch.starts)
    into.batch.starts[count + 1 :].fill_(count)
    into.batch.lengths[:count].copy_(batch.lengths)
    into.batch.lengths[count:].fill_(0)
    into.batch.table[:count, : batch.table.shape[1]].copy_(batch.table)
