import fcntl
import json
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time

import pytest

GREEDY = ("--temperature", "0", "--max-new-tokens", "8")
# Ctrl-C is a signal only for those whose terminal it is.
TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "mindpress", *sys.argv[1:]])
"""


def test_a_pipe_gets_the_answer_alone(spawn, model):
    ran = spawn("chat", model, *GREEDY, stdin="The river was")
    assert ran.code == 0
    assert re.search(r"\(8 tokens, [\d.]+ tokens/s, first after \d[\d.]* m?s", ran.err)
    again = spawn("chat", model, *GREEDY, "--quiet", "--prompt", "The river was")
    assert (again.code, again.err) == (0, "")
    assert again.out == ran.out
    assert again.out.strip()


def test_a_question_answered_as_json(run, model):
    ran = run("chat", model, *GREEDY, "--prompt", "The river was", "--json")
    answer = json.loads(ran.out)
    assert answer["question"] == "The river was"
    assert answer["answer"].strip()
    assert answer["stats"]["new_tokens"] == 8
    assert run("chat", model, *GREEDY, "--prompt", "The river was").out == answer["answer"] + "\n"


def test_an_empty_pipe_is_a_mistake(spawn, model):
    ran = spawn("chat", model, stdin="")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[0] == "error: stdin is empty"


@pytest.mark.parametrize(("arguments", "where"), [((), "stdin"), (("-p", b"\xff"), "--prompt")])
@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_bytes_that_are_no_text_are_refused_before_the_model(arguments, where, locale):
    ran = subprocess.run(
        [sys.executable, "-m", "mindpress", "chat", "./nowhere", *arguments],
        input=b"\xff", capture_output=True, env={**os.environ, "LC_ALL": locale}, check=False,
    )  # fmt: skip
    assert ran.returncode == 3
    assert ran.stderr.decode().splitlines()[0] == f"error: {where}: not UTF-8"


class Screen:
    """`mindpress chat` in a real pseudo-terminal."""

    def __init__(self, *arguments, state):
        self.shown = ""
        self.terminal, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 30, 100, 0, 0))
        variables = {"TERM": "xterm", "XDG_STATE_HOME": state, "OMP_NUM_THREADS": "1",
                     "PROMPT_TOOLKIT_NO_CPR": "1"}  # fmt: skip
        self.child = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, "chat", *arguments],
            stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True, env={**os.environ, **variables},
        )  # fmt: skip
        os.close(theirs)

    def press(self, keys):
        os.write(self.terminal, keys.encode())

    def wait_for(self, pattern, seconds=60.0):
        """Read until `pattern` is on the screen; what stood before it is forgotten."""
        until = time.monotonic() + seconds
        while not re.search(pattern, ESCAPES.sub("", self.shown)):
            assert time.monotonic() < until, f"{pattern!r} did not come: {self.shown[-2000:]!r}"
            if select.select([self.terminal], [], [], 0.1)[0]:
                self.shown += os.read(self.terminal, 65536).decode(errors="replace")
        self.shown = ""

    def end(self, seconds=20.0):
        """The exit code."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if select.select([self.terminal], [], [], 0.1)[0]:
                try:
                    os.read(self.terminal, 65536)
                except OSError:  # Linux says so when the other side is closed
                    break
        return self.child.wait(timeout=5)

    def close(self):
        self.child.kill()
        self.child.wait()
        os.close(self.terminal)


@pytest.fixture
def screen(tmp_path, model):
    opened = []

    def start(*arguments, model=model):
        opened.append(Screen(str(model), *arguments, state=str(tmp_path)))
        opened[-1].wait_for(">>>")
        return opened[-1]

    yield start
    for each in opened:
        each.close()


ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
STATS = r"\(\d+ tokens, [\d.]+ tokens/s, first after \d[\d.]* m?s[\s\S]*>>>"


def test_a_conversation_in_a_terminal(screen, tmp_path):
    chat = screen(*GREEDY)
    chat.press("The river was\r")
    chat.wait_for(STATS)
    chat.press("/set temperature 0.5\r")
    chat.wait_for(r"temperature +0\.5[\s\S]*>>>")
    chat.press('"""\rone\rtwo"""\r')
    chat.wait_for(STATS)
    chat.press(f"/save {tmp_path / 'chat.json'}\r")
    chat.wait_for(r"saved 4 messages[\s\S]*>>>")
    chat.press("\x04")
    assert chat.end() == 0
    messages = json.loads((tmp_path / "chat.json").read_text(encoding="utf-8"))
    assert messages[2]["content"] == "one\ntwo"
    assert "The river was" in (tmp_path / "mindpress" / "chat-history").read_text()


@pytest.fixture
def talkative(tmp_path, model):
    """The same model with a context it takes minutes to fill."""
    copy = shutil.copytree(model, tmp_path / "talkative")
    config = json.loads((copy / "config.json").read_text())
    config["max_position_embeddings"] = 65536
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def test_ctrl_c_stops_the_answer_and_not_the_program(screen, talkative):
    chat = screen("--ignore-eos", "--max-new-tokens", "60000", model=talkative)
    chat.press("The river was\r")
    chat.wait_for(r"The river was\s+[^\r\n]{20}")
    chat.press("\x03")
    chat.wait_for(r"\(stopped, \d+ tokens[\s\S]*>>>")
    chat.press("\x03")
    chat.wait_for(r"Ctrl-D or /exit leaves[\s\S]*>>>")
    chat.press("/stats\r")
    chat.wait_for(r"messages +2[\s\S]*>>>")
    chat.press("/exit\r")
    assert chat.end() == 0
