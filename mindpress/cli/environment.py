"""Environment of a command: other libraries are quiet and patient unless the user says else."""

import os
import warnings

QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
# Threads of torch that wait for one another sleep instead of spinning. Alone on a machine that
# costs nothing; beside other work it is several times faster.
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}
TRACEBACK_VARIABLE = "MINDPRESS_TRACEBACK"


def quiet_libraries() -> None:
    """Turn off progress bars, advice and busy waiting; what the user set stays.

    Must run before they are imported.
    """
    for name, value in (QUIET | PATIENT).items():
        os.environ.setdefault(name, value)
    if not os.environ.get("PYTHONWARNINGS"):
        warnings.simplefilter("ignore")


def wants_traceback() -> bool:
    """Whether MINDPRESS_TRACEBACK asks for the tracebacks of bugs."""
    return os.environ.get(TRACEBACK_VARIABLE, "") not in ("", "0")
