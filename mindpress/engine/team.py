"""Processes that run one model together, each with a part of every weight: tensor parallelism.

Heads and inner channels are shared out, so each block needs two sums over all processes. Source:
Shoeybi et al. 2019, "Megatron-LM", section 3. This process schedules and samples; the others are
told the rows of each step and compute their part of it.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from mindpress.engine.config import EngineConfig
from mindpress.errors import ConfigError, ResourceError

# Loading weights from a slow disk may take this long.
PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class Membership:
    """What a process must know to join: read from stdin as JSON."""

    rank: int
    of: int
    meeting_place: str
    path: str
    config: EngineConfig

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def load(text: str) -> "Membership":
        fields: dict[str, Any] = json.loads(text)
        config = EngineConfig(**fields.pop("config"))
        return Membership(config=config, **fields)


class Team:
    """The other processes. They end with `close`, or when this process does."""

    def __init__(self, path: Path, config: EngineConfig) -> None:
        if dist.is_initialized():
            raise ConfigError(
                f"--tp {config.tp}: this process is part of another parallel run already",
                hint="close that pipeline first",
            )
        self._folder = tempfile.TemporaryDirectory(prefix="mindpress-tp-")
        place = str(Path(self._folder.name) / "meeting")
        self._log = Path(self._folder.name) / "errors"
        members = [
            Membership(rank, config.tp, place, str(path), config) for rank in range(config.tp)
        ]
        self._others = [self._start(member) for member in members[1:]]
        with self.together():
            join(members[0])

    @contextmanager
    def together(self) -> Iterator[None]:
        """Say what another process died of, in place of the broken connection it left."""
        try:
            yield
        except (RuntimeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            words = self._last_words() or str(error).splitlines()[0]
            self.close()
            raise ResourceError(
                f"another process of this run ended: {words}",
                hint="try a smaller --tp, or --tp 1",
            ) from None

    def tell(self, message: object) -> None:
        """Send to all others what `hear` gives them."""
        with self.together():
            dist.broadcast_object_list([message], src=0)

    def close(self) -> None:
        """End the other processes; also when they have ended, or this was said before."""
        for process in self._others:
            process.terminate()
        for process in self._others:
            process.wait()
        if dist.is_initialized():
            dist.destroy_process_group()
        self._folder.cleanup()

    def _start(self, member: Membership) -> "subprocess.Popen[str]":
        with self._log.open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "mindpress.engine.member"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                text=True,
            )
        if process.stdin is not None:
            process.stdin.write(member.dump())
            process.stdin.close()
        return process

    def _last_words(self) -> str:
        if not self._log.exists():
            return ""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


def join(member: Membership) -> None:
    """Meet the others. gloo between CPUs, nccl between GPUs."""
    cuda = member.config.device == "cuda"
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
