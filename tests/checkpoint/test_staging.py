"""An output folder appears whole or not at all, and only one run at a time writes it."""

import errno
import os
import stat
from pathlib import Path

import pytest

from mindpress.checkpoint.manifest import NAME, load_manifest
from mindpress.checkpoint.staging import (
    StagedFolder,
    check_not_inside,
    check_target,
)
from mindpress.errors import ConfigError, ResourceError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An output of ours from before."""
    model = tmp_path / "out"
    model.mkdir()
    (model / "config.json").write_text("old")
    (model / "report.json").write_text('{"versions": {"mindpress": "0.1.0"}}')
    return model


def names(folder: Path) -> set[str]:
    """Everything in it but manifests, which every folder has that was committed."""
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.name != NAME}


def test_it_appears_at_commit_and_nothing_else_stays(tmp_path):
    target = tmp_path / "new" / "deep" / "out"
    with StagedFolder(target, "model") as staged:
        (staged.path / "sub").mkdir()
        (staged.path / "sub" / "a.txt").write_text("a")
        assert not target.exists()
        staged.commit()
        assert names(target) == {"sub", "sub/a.txt"}
    assert names(target.parent) == {"out", "out/sub", "out/sub/a.txt"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, ResourceError])
def test_an_exception_before_anything_was_written_leaves_nothing(tmp_path, error):
    def work() -> None:
        with StagedFolder(tmp_path / "new" / "out", "model"):
            raise error("stopped")

    with pytest.raises(error):
        work()
    assert names(tmp_path) == set()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, ResourceError])
def test_an_exception_later_leaves_what_was_written_aside(tmp_path, error):
    def work() -> None:
        with StagedFolder(tmp_path / "out", "model") as staged:
            (staged.path / "a.txt").write_text("a")
            raise error("stopped")

    with pytest.raises(error):
        work()
    aside = ".out.partial"
    assert names(tmp_path) == {aside, f"{aside}/output", f"{aside}/output/a.txt"}


def test_it_stays_for_the_next_run(tmp_path):
    with StagedFolder(tmp_path / "out", "model") as staged:
        (staged.path / "a.txt").write_text("a")
    with StagedFolder(tmp_path / "out", "model") as staged:
        assert (staged.path / "a.txt").read_text() == "a"
        staged.commit()
    assert names(tmp_path) == {"out", "out/a.txt"}


def refused(staged: StagedFolder) -> str:
    if names(staged.aside) != {"output"}:
        raise ConfigError("an interrupted run with other settings")
    return "afresh"


def test_a_run_that_is_refused_starts_afresh_when_it_may_overwrite(tmp_path):
    with StagedFolder(tmp_path / "out", "model") as staged:
        (staged.path / "sub").mkdir()
        (staged.path / "sub" / "a.txt").write_text("a")
        (staged.aside / "journal.json").write_text("{}")
    with StagedFolder(tmp_path / "out", "model") as staged:
        with pytest.raises(ConfigError, match="other settings"):
            staged.resumed(lambda: refused(staged))
        assert (staged.path / "sub" / "a.txt").exists()
    with StagedFolder(tmp_path / "out", "model", overwrite=True) as staged:
        assert staged.resumed(lambda: refused(staged)) == "afresh"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_killed_while_it_replaces_the_old_output_is_finished(model, tmp_path, overwrite):
    """Between the two renames the target is not there; the next run puts the new one there."""
    aside = tmp_path / ".out.partial"
    (aside / "output").mkdir(parents=True)
    (aside / "output" / "config.json").write_text("new")
    (aside / "output" / "report.json").write_text('{"versions": {"mindpress": "0.1.0"}}')
    (aside / "journal.json").write_text("{}")
    model.rename(aside / "old")
    if overwrite:
        with StagedFolder(model, "model", overwrite=True) as staged:
            assert (model / "config.json").read_text() == "new"
            assert not (staged.aside / "journal.json").exists()
    else:
        with pytest.raises(ConfigError, match="not empty"):
            StagedFolder(model, "model").__enter__()
    assert (model / "config.json").read_text() == "new"
    assert names(tmp_path) == {"out", "out/config.json", "out/report.json"}


def test_a_run_killed_while_it_writes_the_manifest_leaves_nothing_of_it(tmp_path):
    with StagedFolder(tmp_path / "out", "model") as staged:
        (staged.path / f".{NAME}.new").write_text("{half")
    with StagedFolder(tmp_path / "out", "model") as staged:
        staged.commit()
    assert load_manifest(tmp_path / "out") == {}
    assert names(tmp_path) == {"out"}


def test_what_a_run_killed_after_its_renames_left_is_deleted(model, tmp_path):
    aside = tmp_path / ".out.partial"
    (aside / "old").mkdir(parents=True)
    (aside / "journal.json").write_text("{}")
    (tmp_path / ".out.lock").touch()
    with pytest.raises(ConfigError, match="not empty"):
        StagedFolder(model, "model").__enter__()
    assert names(tmp_path) == {"out", "out/config.json", "out/report.json"}


def test_an_old_output_is_back_when_the_new_one_cannot_be_put_there(model, tmp_path, monkeypatch):
    def rename(self: Path, target: Path, original=Path.rename) -> Path:
        if self.name == "output":
            raise OSError(errno.EIO, "Input/output error")
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)

    def work() -> None:
        with StagedFolder(model, "model", overwrite=True) as staged:
            staged.commit()

    with pytest.raises(ResourceError, match="Input/output"):
        work()
    assert (model / "config.json").read_text() == "old"
    aside = {".out.partial", ".out.partial/output"}  # the new one, for the next run
    assert names(tmp_path) == {"out", "out/config.json", "out/report.json", *aside}


@pytest.mark.parametrize(("mask", "modes"), [(0o022, (0o755, 0o644)), (0o077, (0o700, 0o600))])
def test_modes_are_what_the_user_wants_them_to_be(tmp_path, mask, modes):
    before = os.umask(mask)
    try:
        with StagedFolder(tmp_path / "out", "model") as staged:
            (staged.path / "a.txt").write_text("a")
            staged.commit()
    finally:
        os.umask(before)
    found = [
        stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out", tmp_path / "out" / NAME)
    ]
    assert tuple(found) == modes


def test_an_empty_folder_may_be_there(tmp_path):
    (tmp_path / "out").mkdir()
    with StagedFolder(tmp_path / "out", "model") as staged:
        staged.commit()
    assert names(tmp_path) == {"out"}


def test_a_folder_with_something_in_it_is_refused(model):
    with pytest.raises(ConfigError, match="the folder is not empty") as caught:
        check_target(model, "model", overwrite=False)
    assert "--overwrite" in str(caught.value.hint)


def test_overwrite_replaces_at_commit_and_not_before(model, tmp_path):
    with StagedFolder(model, "model", overwrite=True) as staged:
        (staged.path / "config.json").write_text("new")
        assert (model / "config.json").read_text() == "old"
        staged.commit()
    assert (model / "config.json").read_text() == "new"
    assert names(tmp_path) == {"out", "out/config.json"}


def test_overwrite_that_fails_keeps_the_old_one(model, tmp_path):
    def work() -> None:
        with StagedFolder(model, "model", overwrite=True):
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        work()
    assert (model / "config.json").read_text() == "old"
    assert names(tmp_path) == {"out", "out/config.json", "out/report.json"}


def test_the_next_run_is_not_disturbed(tmp_path):
    """It may begin as soon as the folder is in its place."""
    with StagedFolder(tmp_path / "out", "model") as staged:
        staged.commit()
        staged.path.mkdir(parents=True)
        (staged.path / "next.txt").write_text("of the next run")
    assert (staged.path / "next.txt").exists()


def test_overwrite_replaces_its_own_kind_only(model, tmp_path):
    check_target(model, "model", overwrite=True)
    with pytest.raises(ConfigError, match="something else than mindpress's statistics"):
        check_target(model, "statistics", overwrite=True)
    workspace = tmp_path / "ws" / "triton_models" / "weights"
    workspace.mkdir(parents=True)
    (workspace / "config.ini").touch()
    check_target(tmp_path / "ws", "workspace", overwrite=True)
    for kind in ("model", "statistics"):
        with pytest.raises(ConfigError, match="it is not replaced"):
            check_target(tmp_path / "ws", kind, overwrite=True)


def test_overwrite_deletes_no_folder_that_is_not_ours(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="it is not replaced"):
        check_target(tmp_path, "model", overwrite=True)


def test_a_folder_that_was_filled_meanwhile_is_not_replaced(tmp_path):
    target = tmp_path / "out"

    def work() -> None:
        with StagedFolder(target, "model") as staged:
            target.mkdir()
            (target / "config.json").write_text("of another run")
            staged.commit()

    with pytest.raises(ConfigError, match="not empty"):
        work()
    assert (target / "config.json").read_text() == "of another run"


@pytest.mark.parametrize("name", ["file", "file/out", "file/deep/out"])
def test_a_file_in_the_way(tmp_path, name):
    (tmp_path / "file").write_text("x")
    with pytest.raises((ConfigError, ResourceError), match=r"file: is a file|Not a directory"):
        check_target(tmp_path / name, "model", overwrite=False)


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(ResourceError, match="File name too long"):
        check_target(tmp_path / ("x" * 300), "model", overwrite=False)


@pytest.mark.parametrize("place", ["/proc/out", "/sys/out", "/proc/1/out/deep"])
def test_a_place_that_cannot_be_written(place):
    """Also for root, whom permissions do not stop."""
    staged = StagedFolder(Path(place), "model")
    with pytest.raises(ResourceError, match=r"/proc|/sys") as caught, staged:
        pass
    assert "another folder" in str(caught.value.hint)


def test_a_folder_without_permission(tmp_path):
    place = tmp_path / "place"
    place.mkdir(mode=0o555)
    user = os.geteuid()
    os.seteuid(user or 65534)  # root, whom permissions do not stop, becomes nobody
    try:
        with pytest.raises(ResourceError, match=r"[Pp]ermission"):
            StagedFolder(place / "out", "model").__enter__()
    finally:
        os.seteuid(user)


def test_a_link_to_a_folder_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with StagedFolder(tmp_path / "link", "model") as staged:
        (staged.path / "a.txt").write_text("a")
        staged.commit()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a.txt").read_text() == "a"


@pytest.mark.parametrize("target", ["model", "model/../model", ".", "link"])
def test_the_model_that_is_read_is_not_written_over(tmp_path, target):
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "model")
    with pytest.raises(ConfigError, match="holds the model that is read"):
        check_not_inside(tmp_path / target, tmp_path / "model")
    check_not_inside(tmp_path / "model-awq", tmp_path / "model")
