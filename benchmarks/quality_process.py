"""Wall and CPU seconds and peak memory of a command.

    python benchmarks/quality_process.py LOG COMMAND ...

Run as a process of its own, which imports nothing large: the peak that Linux reports for a child
starts at the memory of the process that it was forked from.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

# One thread that does not spin: fair where other work runs.
ALONE = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


class Failed(Exception):
    """A command that ended with an error; the message is the last that it printed."""


def measured(command: list[str], log: Path) -> dict[str, float]:
    """Run `command` and measure it, its output in `log`; Failed when it fails."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", __file__, str(log), *command],
        env={**os.environ, **ALONE},
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        lines = filter(str.strip, log.read_text(errors="replace").splitlines())
        raise Failed("; ".join([*lines][-2:]))
    return json.loads(done.stdout)


def main() -> None:
    log, command = Path(sys.argv[1]), sys.argv[2:]
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(1)
    figures = {
        "wall_seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_rss_mb": round(usage.ru_maxrss * 1024 / 1e6, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
