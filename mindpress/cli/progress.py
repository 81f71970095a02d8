"""Progress of long work: a live display on a terminal, one plain line per step elsewhere."""

import sys
from time import monotonic
from types import TracebackType

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mindpress.cli.console import Console
from mindpress.events import Advanced, Event, Finished, Note, Started
from mindpress.memory import peak_bytes, resident_bytes
from mindpress.report.numbers import duration, number, size

# Narrower terminals show the first two figures only: a step's error, and that of plain rounding.
WIDE = 110
PLAIN = "plain rounding"  # both a method and the name of the figure to compare with
SHORT = {PLAIN: "plain"}
SHOWN_STEPS = 6  # finished steps that stay in sight
SECONDS_BETWEEN_LINES = 5.0  # off a terminal, for steps without a name or figures


class Progress:
    """A listener for `mindpress.events`: `with Progress(console) as listener: work(listener)`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._work: Started | None = None
        self._done = 0
        self._began = self._spoke = monotonic()
        self._steps: list[Advanced] = []
        live = console.error_terminal.is_terminal and not console.quiet
        self._live = (
            Live(console=console.error_terminal, get_renderable=self._picture, transient=True)
            if live
            else None
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Note):
            self._note(event)
        elif isinstance(event, Started):
            self._start(event)
        elif isinstance(event, Advanced):
            self._advance(event)
        else:
            self._finish(event)

    def _note(self, note: Note) -> None:
        if note.level == "warning":
            self._console.warn(note.text)
        else:
            self._console.say(f"note: {note.text}")

    def _start(self, work: Started) -> None:
        self._work, self._done, self._began, self._steps = work, 0, monotonic(), []
        self._spoke = self._began
        if self._live:
            self._live.start()
        else:
            self._console.say(f"{work.what}: {counted(work.total, work.unit)}")

    def _advance(self, step: Advanced) -> None:
        self._done = step.done
        self._steps = [*self._steps, step][-SHOWN_STEPS:]
        told = bool(step.detail and step.figures) or self._is_time()
        if told and not self._live:
            line = f"{self._place(step.done)}: {described(step)}".removesuffix(": ")
            self._console.say(f"{line}; {self._state()}")

    def _finish(self, event: Finished) -> None:
        self._stop()
        if self._work:
            what = f"{self._work.what}: {counted(self._work.total, self._work.unit)}"
            self._console.say(f"{what} in {duration(event.seconds)}")
        self._work = None

    def _stop(self) -> None:
        if self._live and self._live.is_started:
            self._live.stop()

    def _is_time(self) -> bool:
        """Whether the last line is old enough for another one."""
        now = monotonic()
        if now - self._spoke < SECONDS_BETWEEN_LINES:
            return False
        self._spoke = now
        return True

    def _place(self, step: int) -> str:
        work = self._work
        return f"{work.unit} {step} of {work.total}" if work else f"step {step}"

    def _state(self) -> str:
        """Seconds left and memory, for people who wait."""
        now = resident_bytes()
        parts = [f"memory {size(now)}, at most {size(max(now, peak_bytes()))}"]
        gpu = gpu_peak_bytes()
        if gpu:
            parts.append(f"GPU at most {size(gpu)}")
        if self._work and 0 < self._done < self._work.total:
            spent = monotonic() - self._began
            left = spent / self._done * (self._work.total - self._done)
            parts.insert(0, f"about {duration(left)} left")
        return ", ".join(parts)

    def _picture(self) -> Group:
        """The live display: a bar with its figures, and the last finished steps below."""
        work = self._work
        if work is None:
            return Group()
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            Text(work.what, style="bold"),
            ProgressBar(total=max(1, work.total), completed=self._done, width=28),
            Text(self._place(min(self._done + 1, work.total))),
            Text(duration(monotonic() - self._began), style="dim"),
        )
        return Group(bar, Text(self._state(), style="dim"), *self._finished())

    def _finished(self) -> list[Table]:
        """The last finished steps that had figures, one in a row."""
        steps = [step for step in self._steps if step.figures]
        if not steps or self._work is None:
            return []
        table = Table(box=None, header_style="dim", style="dim")
        names = list(steps[-1].figures)
        heads = [self._work.unit, "kept", *names]
        if self._console.error_terminal.width < WIDE:
            names = names[:2]
            heads = [self._work.unit, "kept", *(SHORT.get(name, name) for name in names)]
        for place, head in enumerate(heads):
            table.add_column(head, justify="left" if place == 1 else "right", no_wrap=True)
        for step in steps:
            figures = (number(step.figures.get(name)) for name in names)
            table.add_row(str(step.done), step.detail, *figures)
        return [table]


def gpu_peak_bytes() -> int:
    """The most that torch ever held on the GPU; 0 when it uses none. Never loads torch."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return 0
    return torch.cuda.max_memory_allocated()


def counted(total: int, unit: str) -> str:
    """`1 layer`, `32 layers`."""
    return f"{total} {unit}" if total == 1 else f"{total} {unit}s"


def described(step: Advanced) -> str:
    """What was finished, and its figures: `scaled, error 0.0039, query 0.0022`.

    Of a choice: `kept scaled; error 0.0039 (plain rounding 0.0058), query 0.0022`.
    """
    figures = dict(step.figures)
    plain = figures.pop(PLAIN, None)
    told = [f"{name} {number(value)}" for name, value in figures.items()]
    if plain is None:
        return ", ".join(part for part in (step.detail, *told) if part)
    if told and step.detail != PLAIN:
        told[0] += f" ({PLAIN} {number(plain)})"
    return "; ".join(part for part in (f"kept {step.detail}", ", ".join(told)) if part)
