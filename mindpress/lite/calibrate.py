"""Run the calibration text through a model, one decoder block at a time, and record ranges."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mindpress import __version__
from mindpress.calib.batches import Batches, saved_sizes
from mindpress.calib.hidden import put
from mindpress.calib.statistics import without_overflow
from mindpress.calib.statistics_file import (
    CalibrationStatistics,
    StatisticsWriter,
    load_statistics,
)
from mindpress.calib.statistics_header import StatisticsHeader
from mindpress.calib.stream import BlockStream, LiveBlock
from mindpress.checkpoint.disk import disk_errors
from mindpress.checkpoint.journal import Journal, fingerprint
from mindpress.checkpoint.staging import StagedFolder
from mindpress.device import compute_type
from mindpress.errors import NumericError
from mindpress.events import Advanced, Finished, Listener, Note, Started, ignore
from mindpress.formats.cache_scales import CacheRanges, Ranges
from mindpress.formats.finite import is_finite
from mindpress.lite.calibration import CalibrationRun
from mindpress.lite.calibration_plan import CalibrationRequest, check_calibration
from mindpress.lite.inputs import check_weights, embedded, input_files
from mindpress.lite.observe import BlockStatistics
from mindpress.lite.walk import OVERFLOWED, TOO_LONG, WIDENED
from mindpress.memory import give_back, peak_bytes, return_large_blocks
from mindpress.sources.signature import cache_signature

CLAMP_HINT = "`mindpress lite calibrate --clamp` carries on with finite values in their place"

Hidden = Float[Tensor, "samples tokens hidden"]


@dataclass(frozen=True, slots=True)
class Widest:
    """The layer with the widest range, and that range over all its heads and channels."""

    layer: int
    low: float
    high: float

    @classmethod
    def of(cls, ranges: Ranges) -> "Widest":
        low, high = ranges.low.flatten(1).amin(1), ranges.high.flatten(1).amax(1)
        layer = int((high - low).argmax())
        return cls(layer, float(low[layer]), float(high[layer]))


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """The whole run; `peak_memory_bytes` is of the whole process."""

    target: Path
    header: StatisticsHeader
    keys: Widest
    values: Widest
    seconds: float
    peak_memory_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "target": str(self.target), "tokens": self.header.tokens}


def calibrate_model(
    run: CalibrationRun, target: Path, *, overwrite: bool = False, listener: Listener = ignore
) -> CalibrationReport:
    """Write the statistics of the model's activations to `target` (see calib/statistics_file.py).

    Everything is checked before the first block. An interrupted run leaves a hidden folder
    beside `target`; the same call goes on from it, and with `overwrite` another starts afresh. Peak
    memory: one block, and the hidden states of the calibration set.
    """
    started = time.monotonic()
    with StagedFolder(target, "statistics", overwrite=overwrite) as staged:
        saved = _recorded(run, staged, overwrite=overwrite, listener=listener)
        ranges = saved.ranges
        staged.commit()
    seconds = time.monotonic() - started
    listener(Finished(seconds))
    return CalibrationReport(
        target=target,
        header=saved.header,
        keys=Widest.of(ranges.keys),
        values=Widest.of(ranges.values),
        seconds=seconds,
        peak_memory_bytes=peak_bytes(),
    )


def calibrate_aside(
    run: CalibrationRun, place: Path, *, overwrite: bool = False, listener: Listener = ignore
) -> tuple[CacheRanges, StatisticsHeader]:
    """Ranges of keys and values for a job of which they are a part.

    The statistics stay unfinished beside `place`, so that the same call after an interruption of
    the job finds them there; who calls deletes them. Raises what `calibrate_model` raises.
    """
    with StagedFolder(place, "statistics", overwrite=overwrite) as staged:
        saved = _recorded(run, staged, overwrite=overwrite, listener=listener)
        return saved.ranges, saved.header


def _recorded(
    run: CalibrationRun, staged: StagedFolder, *, overwrite: bool, listener: Listener
) -> CalibrationStatistics:
    """The statistics in the staged folder; they are complete."""
    return_large_blocks()
    request = check_calibration(run, staged.target, overwrite=overwrite, listener=listener)
    calibration = _Run(run, request, staged)
    clamped = staged.resumed(lambda: calibration.resume(listener))
    check_weights(request.source, listener)
    with disk_errors(staged.path):
        calibration.blocks(clamped, listener)
        calibration.finish(clamped)
    saved = load_statistics(staged.path)
    _tell_clamped(saved.header, listener)
    return saved


class _Run:
    """The state of one run: what is written, and the hidden states before the next block.

    Of every finished layer, a list says whether values in it were clamped.
    """

    def __init__(
        self, run: CalibrationRun, request: CalibrationRequest, staged: StagedFolder
    ) -> None:
        self.run, self.source, self.tokens = run, request.source, request.tokens
        self.staged, self.device = staged, request.device
        kind = compute_type(request.device, request.source.embedding_type)
        self.stream = BlockStream(request.source, request.device, kind)
        found = cache_signature(request.source)
        self.writer = StatisticsWriter(staged.path, replace(request.header, signature=found))
        # A run that stopped at an overflow goes on with --clamp: nothing before it was clamped.
        parts = (__version__, replace(run, clamp=False), request.tokens.numpy().tobytes())
        files = input_files(request.source)
        self.journal = Journal(staged.aside, fingerprint(*parts, files=files))
        self.batch_sizes: list[int] = []  # of every finished layer

    def resume(self, listener: Listener) -> list[bool]:
        """The layers that an earlier run finished; refuses one with other settings."""
        saved = self.journal.load()
        if saved is None:
            self.staged.clear_output()
            return []
        try:
            clamped = [bool(changed) for changed in saved["clamped"]]
            sizes = saved_sizes(saved["batch_sizes"], len(clamped))
            self.writer.resume(saved["writer"])
            self.batch_sizes = sizes
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise self.journal.damaged(error) from None
        listener(Note(f"going on after layer {len(clamped)} of an interrupted run"))
        return clamped

    def blocks(self, clamped: list[bool], listener: Listener) -> None:
        """Run and record every block that is not in `clamped` yet, and add it."""
        done = len(clamped)
        if done == len(self.stream):
            return
        hidden = embedded(self.stream, self.tokens, self.staged.aside)
        listener(Started("calibrate", len(self.stream)))
        passing = _Passing(self.run, self._watch, hidden, listener)
        for index in range(len(self.stream)):
            with self.stream.block(index) as block:
                if index < done:
                    passing.batches.size = self.batch_sizes[index]
                    passing.through(block, None)
                    listener(Advanced(index + 1, "done in an earlier run"))
                    continue
                seen = self._watch(cache_only=self.run.cache_only)
                changed = passing.through(block, seen)
            give_back()
            if seen.fault:
                raise _fault(index, seen.fault)
            self.batch_sizes.append(passing.batches.size)
            self._save(index, seen, clamped, changed=changed)
            listener(Advanced(index + 1, "recorded", _figures(seen)))

    def finish(self, clamped: list[bool]) -> None:
        """Close the file."""
        self.writer.finish(tuple(index for index, yes in enumerate(clamped) if yes))

    def _watch(self, *, cache_only: bool) -> BlockStatistics:
        block, shape = self.stream.runs.block, self.source.shape
        clamp = self.run.clamp
        return BlockStatistics(block, shape, self.device, cache_only=cache_only, clamp=clamp)

    def _save(
        self, index: int, seen: BlockStatistics, clamped: list[bool], *, changed: bool
    ) -> None:
        self.writer.layer(index, seen.tensors())
        clamped.append(changed or seen.clamped)
        self.writer.sync()
        state = {"clamped": clamped, "batch_sizes": self.batch_sizes}
        self.journal.save({"writer": self.writer.state, **state})


class _Passing:
    """Takes the hidden states of the calibration set through one block after the other."""

    def __init__(
        self,
        run: CalibrationRun,
        watch: Callable[..., BlockStatistics],
        hidden: Hidden,
        listener: Listener,
    ) -> None:
        self._run, self._watch, self._hidden = run, watch, hidden
        self._tell: Callable[[str], None] = lambda words: listener(Note(words))
        self.batches = Batches(run.calibration.batch_size, self._tell, hint=TOO_LONG)

    def through(self, block: LiveBlock, seen: BlockStatistics | None) -> bool:
        """The hidden states are those behind the block; whether values in them were replaced.

        A batch is counted in `seen` once it is complete.
        """

        def run(some: slice) -> tuple[Hidden, BlockStatistics | None]:
            if seen is None:
                return block.run(self._hidden[some]), None
            out, own = self._watched(block, self._hidden[some])
            if out.dtype != block.stream.dtype:  # then what overflowed was recorded, too
                with block.in_float32():
                    return self._watched(block, self._hidden[some])
            return out, own

        changed = False
        for some, (out, own) in self.batches.run(len(self._hidden), run):
            if seen and own:
                seen.join(own)
            if not is_finite(out):
                self._check_clamp(block, self._hidden[some])
                out, changed = without_overflow(out), True
            self._put(block, some, out)
        if seen and block.stream.overflowed:
            self._tell(f"layers.{block.index}: {OVERFLOWED}")
        return changed

    def _watched(self, block: LiveBlock, batch: Hidden) -> tuple[Hidden, BlockStatistics]:
        own = self._watch(cache_only=self._run.cache_only)
        with own.watching(block.module):
            return block.run(batch, own.key_values), own

    def _put(self, block: LiveBlock, some: slice, out: Hidden) -> None:
        kind = self._hidden.dtype
        self._hidden = put(self._hidden, some, out)
        if self._hidden.dtype != kind:
            self._tell(f"layers.{block.index}: {WIDENED}")

    def _check_clamp(self, block: LiveBlock, batch: Hidden) -> None:
        """NumericError that names the first linear at fault, unless the run is to carry on."""
        if self._run.clamp:
            return
        seen = self._watch(cache_only=False)
        with seen.watching(block.module):
            block.run(batch, seen.key_values)
        raise _fault(block.index, seen.fault or "its output")


def _fault(layer: int, what: str) -> NumericError:
    return NumericError(f"layers.{layer}: {what}: NaN or infinite activations", hint=CLAMP_HINT)


def _figures(seen: BlockStatistics) -> dict[str, float]:
    """For the progress display."""
    found = {"largest key": seen.key_values.keys, "largest value": seen.key_values.values}
    return {name: float(extremes.absmax.max()) for name, extremes in found.items()}


def _tell_clamped(header: StatisticsHeader, listener: Listener) -> None:
    if header.clamped:
        named = ", ".join(f"layers.{index}" for index in header.clamped)
        listener(
            Note(
                f"NaN or infinite activations were replaced in {len(header.clamped)} of"
                f" {header.layers} layers: {named}",
                "warning",
            )
        )
