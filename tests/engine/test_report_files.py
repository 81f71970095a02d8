"""A report is two files: both are there, or none; an older one stays until both are complete."""

import errno
from pathlib import Path

import pytest

from mindpress.engine.report_files import save_report
from mindpress.errors import ResourceError


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.*")
        if path.is_file()
    }  # fmt: skip


@pytest.fixture
def full(monkeypatch):
    """The page does not fit on the disk."""
    write = Path.write_text

    def limited(self, text, **options):
        if self.suffix == ".html":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, text, **options)

    monkeypatch.setattr(Path, "write_text", limited)


@pytest.mark.parametrize("place", ["out", "new/deep/out"])
def test_both_files_appear_and_nothing_else(tmp_path, place):
    save_report(tmp_path / place, {"a": 1}, "<p>", "bench")
    wanted = {f"{place}/bench.json": '{\n  "a": 1\n}\n', f"{place}/bench.html": "<p>"}
    assert contents(tmp_path) == wanted


def test_a_disk_that_fills_up_leaves_nothing(tmp_path, full):
    with pytest.raises(ResourceError, match="No space left") as caught:
        save_report(tmp_path / "out", {"a": 1}, "<p>", "bench")
    assert "free some space" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_it_leaves_an_older_report_as_it_was(tmp_path, request):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    save_report(tmp_path / "out", {"a": 1}, "<p>", "bench")
    before = contents(tmp_path)
    assert len(before) == 3
    request.getfixturevalue("full")
    with pytest.raises(ResourceError):
        save_report(tmp_path / "out", {"a": 2}, "<b>", "bench")
    assert contents(tmp_path) == before
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "bench.html", "bench.json", "mine.txt", "out",
    ]  # fmt: skip


def test_what_a_killed_run_left_is_deleted(tmp_path):
    for left in (".out.new", "out/.bench.new"):
        (tmp_path / left).mkdir(parents=True)
        (tmp_path / left / "bench.json").write_text("{")
    save_report(tmp_path / "out", {}, "<p>", "bench")
    assert set(contents(tmp_path)) == {"out/bench.json", "out/bench.html"}
    assert list(tmp_path.rglob(".*")) == []
