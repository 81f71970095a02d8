"""Processes that run one model together, each with a part of every weight: tensor parallelism.

Heads and inner channels are shared out, so each block needs two sums over all processes. Source:
Shoeybi et al. 2019, "Megatron-LM", section 3. This process schedules and samples; the others are
told the rows of each step and compute their part of it.
"""

import json
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from mindpress.device import choose_device
from mindpress.engine.config import Device, EngineConfig
from mindpress.errors import ConfigError, ResourceError

# A process waits in a collective operation until the next question is asked: for ever, in effect.
PATIENCE = timedelta(days=365)
# Python, torch and the package are imported.
STARTING = 120.0


@dataclass(frozen=True, slots=True)
class Membership:
    """What a process must know to join: read from stdin as JSON."""

    rank: int
    of: int
    meeting_place: str
    path: str
    config: EngineConfig

    @property
    def ready(self) -> Path:
        """A file that says that the process is about to join."""
        return Path(f"{self.meeting_place}-{self.rank}")

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def load(text: str) -> "Membership":
        fields: dict[str, Any] = json.loads(text)
        config = EngineConfig(**fields.pop("config"))
        return Membership(config=config, **fields)


class Team:
    """The other processes. They end with `close`, or when this object or this process does."""

    def __init__(self, path: Path, config: EngineConfig) -> None:
        if dist.is_initialized():
            raise ConfigError(
                f"tp {config.tp}: this process is part of another parallel run already",
                hint="close that pipeline first",
            )
        config = replace(config, device=_device(config))
        folder = tempfile.TemporaryDirectory(prefix="mindpress-tp-")
        self._folder = Path(folder.name)
        place = str(self._folder / "meeting")
        members = [
            Membership(rank, config.tp, place, str(path), config) for rank in range(config.tp)
        ]
        self._others: list[subprocess.Popen[str]] = []
        self.close = weakref.finalize(self, _end, self._others, folder)
        try:
            self._others += [self._start(member) for member in members[1:]]
            self._wait_for(members[1:])
            with self.together():
                join(members[0])
        except BaseException:
            self.close()
            raise

    @contextmanager
    def together(self) -> Iterator[None]:
        """Say what another process died of, in place of the broken connection it left."""
        try:
            yield
        except (RuntimeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise self._ended(str(error).splitlines()[0]) from None

    def tell(self, message: object) -> None:
        """Send to all others what `hear` gives them."""
        with self.together():
            dist.broadcast_object_list([message], src=0)

    def _start(self, member: Membership) -> "subprocess.Popen[str]":
        with (self._folder / "errors").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "mindpress.engine.member"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C in the terminal is for the first process
            )
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.write(member.dump())
                process.stdin.close()
        return process

    def _wait_for(self, members: list[Membership]) -> None:
        """Until all of them are about to join; ResourceError when one ends before."""
        until = time.monotonic() + STARTING
        while not all(member.ready.exists() for member in members):
            if any(process.poll() is not None for process in self._others):
                raise self._ended("it ended before it began")
            if time.monotonic() > until:
                raise self._ended(f"it did not begin within {STARTING:.0f} seconds")
            time.sleep(0.02)

    def _ended(self, otherwise: str) -> ResourceError:
        log = self._folder / "errors"
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        self.close()
        return ResourceError(
            f"another process of this run ended: {lines[-1] if lines else otherwise}",
            hint="open the pipeline again; with a smaller tp if memory ran out",
        )


def _end(
    processes: "list[subprocess.Popen[str]]", folder: "tempfile.TemporaryDirectory[str]"
) -> None:
    """Nothing is said to the others first: one of them may be gone, or elsewhere in a step."""
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
    if dist.is_initialized():
        dist.destroy_process_group()
    folder.cleanup()


def _device(config: EngineConfig) -> Device:
    """`auto` must mean the same in every process."""
    if choose_device(config.device).type != "cuda":
        return "cpu"
    found = torch.cuda.device_count()
    if found < config.tp:
        raise ConfigError(f"tp {config.tp}: there are {found} GPUs", hint="use a smaller tp")
    return "cuda"


def join(member: Membership) -> None:
    """Meet the others. gloo between CPUs, nccl between GPUs."""
    cuda = member.config.device == "cuda"
    member.ready.touch()
    if cuda:
        torch.cuda.set_device(member.rank)
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        init_method=f"file://{member.meeting_place}",
        rank=member.rank,
        world_size=member.of,
        timeout=PATIENCE,
    )


def add(x: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    dist.all_reduce(x)
    return x


def hear() -> Any:
    """What `Team.tell` sent; waits for it."""
    message: list[Any] = [None]
    dist.broadcast_object_list(message, src=0)
    return message[0]
