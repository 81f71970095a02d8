"""The first cases of `python -m tests.stress.mutate`, as a user would run it."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_damaged_input_is_more_than_refused():
    call = [sys.executable, "-m", "tests.stress.mutate", "--cases", "600"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=ROOT)
    found = json.loads(done.stdout)
    assert found["faults"] == {}
    assert done.returncode == 0
    assert found["cases"] == 600
    assert found["results"]["accepted"] > 40
    assert found["results"]["refused 3"] > 200
    assert len(found["by_target"]) > 15
