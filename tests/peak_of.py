"""The peak memory of a piece of work, in a process of its own that has done the same in small."""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.random_llama import llama_config, write

# A small run first: what it imports and starts is not the work's.
CODE = """
import json, sys
from pathlib import Path
from mindpress.memory import peak_bytes
{work}
small, large, scratch = map(Path, sys.argv[1:])
do(small, scratch / "small", 8)
base = peak_bytes()
do(large, scratch / "large", 256)
print(json.dumps(peak_bytes() - base))
"""
HIDDEN, INNER, LAYERS = 1024, 2816, 2


def write_models(folder: Path) -> tuple[Path, Path]:
    """A tiny model, and one whose weights are larger than all else."""
    small, large = folder / "small", folder / "large"
    few = {"vocab_size": 4096}
    write(small, "bfloat16", llama_config(128, 256, 1, 2, 1) | few)
    write(large, "bfloat16", llama_config(HIDDEN, INNER, LAYERS, 8, 4) | few)
    return small, large


def peak_of(work: str, models: tuple[Path, Path], scratch: Path) -> int:
    """Bytes above the bare process that `do(model, target, length)` of the code `work` takes."""
    command = [sys.executable, "-c", CODE.format(work=work), *map(str, (*models, scratch))]
    ran = subprocess.run(command, capture_output=True, text=True, check=False,
                         env={**os.environ, "PYTHONWARNINGS": "ignore"})  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return int(json.loads(ran.stdout.splitlines()[-1]))
