"""Only one run at a time writes a folder, from its first check to its last clean-up."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mindpress.checkpoint.locking import lock_file, locked
from mindpress.checkpoint.staging import StagedFolder
from mindpress.errors import LockedError


def test_the_lock_is_gone_with_the_run(tmp_path):
    with locked(tmp_path / "out"), pytest.raises(LockedError):
        locked(tmp_path / "out").__enter__()
    lock_file(tmp_path / "out").touch()  # of a run that was killed
    with locked(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


HOLDER = """
import sys
from pathlib import Path
from mindpress.checkpoint.manifest import NAME
from mindpress.checkpoint.staging import StagedFolder
with StagedFolder(Path(sys.argv[1]), "model") as staged:
    (staged.path / "a.txt").write_text("a")
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_kept_out(tmp_path):
    target = tmp_path / "out"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(LockedError, match=f"another run is writing {target}"):
        StagedFolder(target, "model", overwrite=True).__enter__()
    assert (tmp_path / ".out.partial" / "output" / "a.txt").exists(), (
        "the other run's work was touched"
    )
    holder.kill()
    holder.communicate()
    with StagedFolder(target, "model") as staged:  # a killed run holds no lock
        assert (staged.path / "a.txt").read_text() == "a"


def test_a_run_is_kept_out_until_the_other_is_done(tmp_path, monkeypatch):
    """Also while the other is putting its output in its place and cleaning up."""
    model, tried = tmp_path / "out", []
    model.mkdir()
    (model / "report.json").write_text('{"versions": {"mindpress": "0.1.0"}}')

    def remove(path: Path, *args: object, original=shutil.rmtree, **options: object) -> None:
        with pytest.raises(LockedError):
            StagedFolder(model, "model", overwrite=True).__enter__()
        tried.append(path)
        original(path, *args, **options)

    with StagedFolder(model, "model", overwrite=True) as staged:
        (staged.path / "config.json").write_text("new")
        monkeypatch.setattr(shutil, "rmtree", remove)
        staged.commit()
    assert tried == [staged.aside]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
