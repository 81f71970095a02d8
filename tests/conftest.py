"""What every test has: nothing of the user's own settings and folders."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is imported: the models of the tests are so small that threads would only wait for
# one another, spinning where other work runs beside them. Commands that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Shells start background jobs with Ctrl-C ignored, and programs inherit that; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Before any Triton kernel is imported: without a GPU its language is interpreted.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Its assertions are those of tests: they say their values.
pytest.register_assert_rewrite("checked_scheduler")


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Chat history goes to a temporary folder; nobody's colours or flags count."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))
    for name in ("NO_COLOR", "FORCE_COLOR", "MINDPRESS_TRACEBACK", "PYTHONWARNINGS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """The compiled CPU kernels; compiled now where the package has none of these very sources."""
    from mindpress.kernels.native import build, library

    if library.native().sources == build.fingerprint():
        yield library.native()
        return
    if build.compiler() is None:
        pytest.skip("no C++ compiler")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "FOLDER", tmp_path_factory.mktemp("native"))
        build.compile_library(library.FOLDER)
        library.native.cache_clear()
        yield library.native()
    library.native.cache_clear()
