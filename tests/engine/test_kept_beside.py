"""What an evaluation leaves beside its output when it does not come to its end."""

import json
from contextlib import suppress

import pytest

from mindpress.engine.kept import kept_beside
from mindpress.errors import InputError
from mindpress.events import ignore


def test_what_measured_nothing_leaves_nothing(tmp_path):
    """A run that fails before its first figure is in nobody's way."""
    for error in (InputError("damaged"), KeyboardInterrupt()):
        with pytest.raises(type(error)), kept_beside(tmp_path / "out", "validation", "a", ignore):
            raise error
        assert not list(tmp_path.iterdir())
    with kept_beside(tmp_path / "out", "validation", "b", ignore) as kept:
        assert kept.get("figures") is None


def test_a_journal_without_figures_by_name_is_damaged(tmp_path):
    with (
        suppress(KeyboardInterrupt),
        kept_beside(tmp_path / "out", "validation", "a", ignore) as kept,
    ):
        kept.put("figures", 1)
        raise KeyboardInterrupt
    (journal,) = tmp_path.glob(".out.validation/journal.json")
    journal.write_text(json.dumps({"fingerprint": "a", "state": [1]}))
    with pytest.raises(InputError, match="journal of an interrupted run is damaged"):
        kept_beside(tmp_path / "out", "validation", "a", ignore).__enter__()
    with kept_beside(tmp_path / "out", "validation", "a", ignore, overwrite=True) as kept:
        assert kept.get("figures") is None
