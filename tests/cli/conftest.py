"""The command as a user runs it: in this process for speed, in its own where that matters."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import mindpress.demo
from mindpress.cli.app import main


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def model() -> Path:
    """A small model that was really trained, in float16."""
    return Path(mindpress.demo.__file__).parent / "tiny-llama"


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run `mindpress ARGUMENTS` in this process."""
    monkeypatch.setattr("mindpress.cli.commands.quiet_libraries", lambda: None)

    def command(*arguments: object) -> Ran:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        said = capfd.readouterr()
        return Ran(int(stop.value.code or 0), said.out, said.err)

    return command


@pytest.fixture
def spawn(tmp_path: Path) -> Callable[..., Ran]:
    """Run `mindpress ARGUMENTS` in a process of its own, in an empty folder."""

    def command(*arguments: object, stdin: str | None = None, **variables: str) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "mindpress", *map(str, arguments)],
            input="" if stdin is None else stdin,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return command
