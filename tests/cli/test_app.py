import errno
import signal
import subprocess
import sys
import time

import pytest

import mindpress
from mindpress.cli.failures import explained
from mindpress.errors import NetworkError, ResourceError

HEAVY = ("torch", "transformers", "datasets", "accelerate", "numpy", "prompt_toolkit")
QUANTIZE = ("lite", "auto-awq")


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom mindpress.cli.app import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    print('MODULES', *sys.modules)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(shown.stdout.split("MODULES")[1].split())
    assert "Usage: mindpress" in shown.stdout
    assert not modules & set(HEAVY)


def test_help_is_quick(spawn):
    def seconds():
        began = time.perf_counter()
        assert spawn("--help").code == 0
        return time.perf_counter() - began

    assert min(seconds() for _ in range(4)) < 0.7


def test_the_version_is_the_packages(run):
    assert run("--version").out == f"mindpress {mindpress.__version__}\n"


@pytest.mark.parametrize("arguments", [(), ("lite",)])
def test_a_group_alone_shows_its_help(run, arguments):
    ran = run(*arguments)
    assert (ran.code, ran.err) == (2, "")
    assert "Commands:" in ran.out


@pytest.mark.parametrize(("arguments", "words"), [
    (("lite", "auto-awq", "m", "--bogus"), "--bogus"),
    (("lite", "auto-awq"), "MODEL"),
    (("inspct", "m"), "inspect"),
    (("lite", "auto-awq", "m", "--w-bits", "four"), "--w-bits"),
    (("lite", "auto-awq", "m", "--device", "tpu"), "--device"),
    (("lite", "auto-awq", "m", "--search-scale=maybe"), "--search-scale maybe"),
    (("lite", "auto-awq", "m", "--search_scale", "maybe"), "--search-scale maybe"),
    (("convert", "name", "path", "--model-name", "other"), "--model-name other"),
    (("chat", "m", "--temperature", "-1"), "--temperature -1"),
    (("validate", "m", "--seqlen", "1"), "--seqlen 1"),
])  # fmt: skip
def test_a_mistake_of_usage_is_an_error_line_a_hint_and_two(run, arguments, words):
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    error, *hints = ran.err.splitlines()
    assert error.startswith("error: ")
    assert words in error
    assert all(line.startswith("hint: ") for line in hints)
    assert len(hints) <= 1


@pytest.mark.parametrize("arguments", [
    ("lite", "auto-awq", "./nowhere"), ("convert", "./nowhere"), ("inspect", "./nowhere"),
    ("chat", "./nowhere", "--prompt", "hi"), ("validate", "./nowhere"),
])  # fmt: skip
def test_a_folder_that_is_not_there_is_three(run, arguments):
    ran = run(*arguments)
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.splitlines()[-2:][0] == "error: ./nowhere: no such folder"


def test_a_folder_in_the_way_is_two_and_stays_as_it_was(run, model, tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    ran = run(*QUANTIZE, model, "--work-dir", tmp_path, "--calib-dataset", "excerpt")
    assert ran.code == 2
    assert f"error: {tmp_path}: the folder is not empty" in ran.err
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.fixture
def broken(monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("mindpress.lite.quantize.plan_quantization", fail)


def test_a_bug_is_one_line_without_a_traceback(run, broken, tmp_path):
    ran = run(*QUANTIZE, "m", "--dry-run", "--work-dir", tmp_path / "out")
    assert (ran.code, ran.out) == (1, "")
    error, hint = ran.err.splitlines()
    assert error == "error: ZeroDivisionError: division by zero; this is a bug"
    assert "--traceback" in hint


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_a_traceback_comes_when_asked_for(run, broken, tmp_path, monkeypatch, way):
    if way == "variable":
        monkeypatch.setenv("MINDPRESS_TRACEBACK", "1")
    flags = ["--traceback"] if way == "flag" else []
    ran = run(*QUANTIZE, "m", "--dry-run", "--work-dir", tmp_path / "out", *flags)
    assert ran.code == 1
    assert "Traceback (most recent call last)" in ran.err
    assert 'raise ZeroDivisionError("division\\nby zero")' in ran.err


class OutOfMemoryError(RuntimeError):
    """Has the name of torch's."""


@pytest.mark.parametrize(("error", "kind"), [
    (MemoryError(), ResourceError),
    (OutOfMemoryError("CUDA out of memory"), ResourceError),
    (OSError(errno.ENOSPC, "No space left on device", "a/file"), ResourceError),
    (PermissionError(errno.EACCES, "Permission denied", "a/file"), ResourceError),
    (ConnectionResetError("reset"), NetworkError),
    (TimeoutError("slow"), NetworkError),
])  # fmt: skip
def test_what_the_system_says_is_explained(error, kind):
    assert type(explained(error)) is kind


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), OSError(errno.EINVAL, "x")])
def test_what_nobody_foresaw_is_a_bug(error):
    assert explained(error) is None


@pytest.mark.parametrize(
    ("sent", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_a_run_that_is_stopped_says_how_to_go_on(model, tmp_path, sent, code, name):
    target = tmp_path / "out"
    command = [sys.executable, "-m", "mindpress", *QUANTIZE, str(model), "--work-dir", str(target),
               "--calib-dataset", "excerpt", "--search-scale"]  # fmt: skip
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert running.stderr is not None
    for line in running.stderr:
        if line.startswith("quantize"):
            break
    running.send_signal(sent)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (code, "")
    assert err.splitlines()[-2:] == [
        f"error: stopped by {name}",
        "hint: run the same command to go on where it stopped",
    ]
    assert not target.exists()
    assert not (tmp_path / ".out.lock").exists()


def test_a_reader_that_leaves_is_no_error():
    code = f"{sys.executable} -m mindpress lite auto-awq --help | head -c 1"
    ran = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr == ""


def test_letters_that_the_output_lacks_are_no_error(spawn, model):
    ran = spawn("chat", model, "--max-new-tokens", "1", "--prompt", "“x”", "--system", "é",
                "--json", PYTHONIOENCODING="ascii")  # fmt: skip
    assert (ran.code, "UnicodeEncodeError" in ran.err) == (0, False)
    assert '"question": "?x?"' in ran.out


def test_ctrl_c_while_modules_load_is_no_traceback():
    code = (
        "import sys\nfrom mindpress.cli.app import main\n"
        "class Stop:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Stop())\nmain(['--version'])\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (130, "error: stopped by Ctrl-C\n")
