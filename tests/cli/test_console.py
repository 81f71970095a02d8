import json
import math
import os
import pty
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mindpress.cli.console import Console, plain


@dataclass
class Figures:
    path: Path
    values: tuple[float, ...]


def test_a_result_is_one_json_object_on_stdout(capsys):
    console = Console(as_json=True)
    console.heading("for people")
    console.text("for people")
    console.pairs({"for": "people"})
    console.table(["for"], [["people"]])
    console.result(Figures(Path("a/b"), (1.5, math.nan, math.inf)))
    assert json.loads(capsys.readouterr().out) == {"path": "a/b", "values": [1.5, None, None]}


def test_people_get_no_json(capsys):
    Console().result({"a": 1})
    assert capsys.readouterr().out == ""


def test_everything_but_results_goes_to_stderr(capsys):
    console = Console()
    console.say("working")
    console.warn("look")
    console.error("failed", "try this")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "working\nwarning: look\nerror: failed\nhint: try this\n"


def test_quiet_keeps_warnings_and_errors(capsys):
    console = Console(quiet=True)
    console.say("working")
    console.warn("look")
    console.error("failed")
    assert capsys.readouterr().err == "warning: look\nerror: failed\n"


def test_words_are_not_markup(capsys):
    console = Console()
    console.text("[red]not red[/red] [/]")
    console.error("tensor `[bold]`", "[blue]")
    said = capsys.readouterr()
    assert said.out == "[red]not red[/red] [/]\n"
    assert said.err == "error: tensor `[bold]`\nhint: [blue]\n"


def test_lines_are_not_cut_or_wrapped_when_piped(capsys):
    path = "/".join(["a-long-folder-name"] * 20)
    Console().pairs({"folder": path, "left out": None})
    assert capsys.readouterr().out == f"folder  {path}\n"


def test_a_table_is_aligned(capsys):
    Console().table(["", "before", "after"], [["size", "6.5 MiB", "3.2 MiB"], ["bits", "16", "4"]])
    assert capsys.readouterr().out.splitlines() == [
        "       before    after",
        "size  6.5 MiB  3.2 MiB",
        "bits       16        4",
    ]


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}])
def test_colour_is_for_terminals_that_want_it(variables):
    code = "from mindpress.cli.console import Console\nConsole().error('failed')"
    ours, theirs = pty.openpty()
    child = os.posix_spawn(
        sys.executable, [sys.executable, "-c", code],
        {**os.environ, "TERM": "xterm-256color", **variables},
        file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 2)],
    )  # fmt: skip
    os.waitpid(child, 0)
    os.close(theirs)
    shown = os.read(ours, 1000).decode()
    os.close(ours)
    assert ("\x1b[1;31m" in shown) is not bool(variables)
    assert "failed" in shown


def test_plain_leaves_what_json_knows():
    value = {"a": [1, "b", None, True, 2.5]}
    assert plain(value) == value
