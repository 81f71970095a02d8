import pytest

from mindpress.checkpoint.replacing import replace_file
from mindpress.errors import ResourceError


def test_a_file_is_written_and_replaced_with_its_permissions(tmp_path):
    file = tmp_path / "config.ini"
    replace_file(file, b"one")
    file.chmod(0o640)
    replace_file(file, b"two")
    assert file.read_bytes() == b"two"
    assert file.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    file = tmp_path / "config.ini"
    file.write_bytes(b"one")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResourceError, match="No space left"):
        replace_file(file, b"two")
    assert file.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [file]
