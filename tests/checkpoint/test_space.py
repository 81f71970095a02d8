"""Room on the disk is checked before the work."""

import shutil
from collections import namedtuple

import pytest

from mindpress.checkpoint.staging import check_space
from mindpress.errors import ResourceError


def test_space_is_checked_before_work(tmp_path):
    check_space(tmp_path / "out", 1)
    with pytest.raises(ResourceError, match=r"MiB are needed, .* MiB are free"):
        check_space(tmp_path / "not" / "there", 2**60)


def test_a_run_that_goes_on_needs_room_for_the_rest_only(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 90, 10))
    (tmp_path / ".out.partial" / "output").mkdir(parents=True)
    (tmp_path / ".out.partial" / "output" / "half").write_bytes(bytes(50))
    check_space(tmp_path / "out", 60)
    with pytest.raises(ResourceError, match="MiB are needed"):
        check_space(tmp_path / "out", 61)
