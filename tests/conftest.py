"""What every test has: nothing of the user's own settings and folders."""

import os

import pytest

# Before torch is imported: the models of the tests are so small that threads would only wait for
# one another, spinning where other work runs beside them. Commands that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Chat history goes to a temporary folder; nobody's colours or flags count."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))
    for name in ("NO_COLOR", "FORCE_COLOR", "MINDPRESS_TRACEBACK", "PYTHONWARNINGS"):
        monkeypatch.delenv(name, raising=False)
