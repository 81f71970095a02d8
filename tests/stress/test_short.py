"""Short versions of the stress scripts: the scripts themselves, with a few kills and failures."""

import subprocess
import sys
from pathlib import Path

import pytest

from mindpress.kernels.native.build import compiler

ROOT = Path(__file__).parents[2]
SHORT = {
    "kill": ["--kills", "4", "--command", "auto-awq nearest", "--command", "convert"],
    "failing_write": ["--command", "convert", "--every", "30", "--first", "5"],
    "identical": ["--command", "auto-awq nearest"],
}


@pytest.mark.parametrize("script", SHORT)
def test_it_finds_no_fault(script):
    if script == "failing_write" and compiler() is None:
        pytest.skip("no C++ compiler; full disks are also in tests/checkpoint and tests/convert")
    call = [sys.executable, "-m", f"tests.stress.{script}", *SHORT[script]]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
