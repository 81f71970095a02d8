import json
import signal

import pytest

from mindpress.cli.console import Console
from mindpress.cli.repl import answer, converse
from mindpress.cli.slash import COMMANDS, Chat, run_command, with_setting
from mindpress.engine.chat import open_chat
from mindpress.engine.config import GenerationConfig
from mindpress.errors import ConfigError, ResourceError

GREEDY = GenerationConfig(max_new_tokens=4, temperature=0.0)


@pytest.fixture(scope="module")
def loaded(model):
    return open_chat(model)


@pytest.fixture
def chat(loaded):
    loaded.clear()
    loaded.system = None
    return Chat(loaded, GREEDY, Console())


def lines(*typed):
    """A reader that gives these lines and then Ctrl-D; an exception among them is raised."""
    left = list(typed)

    def read():
        if not left:
            raise EOFError
        line = left.pop(0)
        if isinstance(line, type):
            raise line
        return line

    return read


def test_a_conversation_streams_answers_and_says_what_they_cost(chat, capsys):
    converse(chat, lines("The river was", "", "And then"))
    said = capsys.readouterr()
    assert len(said.out.splitlines()) >= 2
    assert [m["role"] for m in chat.session.messages] == ["user", "assistant"] * 2
    figures = said.err.splitlines()
    assert len(figures) == 2
    assert figures[0].startswith("(4 tokens, ")
    assert "tokens/s, first after " in figures[0]


def test_ctrl_c_means_again_what_it_meant_before_the_answer(chat):
    before = signal.getsignal(signal.SIGINT)
    answer(chat, "hello")
    assert signal.getsignal(signal.SIGINT) is before


def test_exit_leaves_and_ctrl_c_at_the_prompt_does_not(chat, capsys):
    converse(chat, lines(KeyboardInterrupt, "/exit", "never read"))
    assert chat.session.messages == []
    assert capsys.readouterr().err == "Ctrl-D or /exit leaves\n"


def test_a_mistake_is_shown_and_the_conversation_goes_on(chat, capsys):
    converse(chat, lines("/bogus", "/set temperature hot", "word " * 3000, "/exit"))
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert errors[0] == "error: /bogus: no such command"
    assert errors[1] == "error: /set temperature hot: not a number"
    assert "a sequence holds 512" in errors[2]
    assert chat.over


def test_help_lists_every_command(chat, capsys):
    run_command(chat, "/help")
    shown = capsys.readouterr().out
    assert all(f"/{name} " in shown for name in COMMANDS)
    assert set(COMMANDS) == {"help", "clear", "system", "set", "save", "stats", "exit"}


def test_clear_forgets(chat):
    answer(chat, "hello")
    run_command(chat, "/clear")
    assert chat.session.messages == []


def test_the_system_message_is_shown_set_and_taken_away(chat, capsys):
    run_command(chat, "/system Be brief.")
    assert chat.session.system == "Be brief."
    run_command(chat, "/system none")
    assert chat.session.system is None
    assert capsys.readouterr().out == "system: Be brief.\nsystem: none\n"


@pytest.mark.parametrize(("name", "text", "value"), [
    ("temperature", "0.5", 0.5), ("top-k", "10", 10), ("top_p", "none", None), ("seed", "7", 7),
    ("max_new_tokens", "9", 9), ("stop", "END ###", ("END", "###")), ("stop", "none", ()),
    ("ignore_eos", "true", True),
])  # fmt: skip
def test_a_setting_is_changed(name, text, value):
    changed = with_setting(GREEDY, name, text)
    assert getattr(changed, name.replace("-", "_")) == value


@pytest.mark.parametrize(("name", "text"), [
    ("colour", "red"), ("temperature", "hot"), ("top_k", "1.5"), ("temperature", "-1"),
    ("top_p", "2"), ("max_new_tokens", "none"), ("max_new_tokens", "0"),
])  # fmt: skip
def test_a_wrong_setting_is_refused(name, text):
    with pytest.raises(ConfigError):
        with_setting(GREEDY, name, text)


def test_set_shows_what_holds(chat, capsys):
    run_command(chat, "/set top_k 3")
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (shown["top_k"], shown["top_p"], shown["temperature"]) == ("3", "the model's", "0.0")
    with pytest.raises(ConfigError, match="no value"):
        run_command(chat, "/set top_k")


def test_save_writes_markdown_or_json_and_replaces_nothing(chat, tmp_path):
    chat.session.system = "Be brief."
    answer(chat, "hello")
    run_command(chat, f"/save {tmp_path / 'chat.json'}")
    messages = json.loads((tmp_path / "chat.json").read_text(encoding="utf-8"))
    assert [m["role"] for m in messages] == ["system", "user", "assistant"]
    run_command(chat, f"/save {tmp_path / 'chat.md'}")
    assert "## user\n\nhello\n" in (tmp_path / "chat.md").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="there already"):
        run_command(chat, f"/save {tmp_path / 'chat.md'}")
    with pytest.raises(ResourceError):
        run_command(chat, f"/save {tmp_path / 'no' / 'chat.md'}")
    with pytest.raises(ConfigError, match="no file"):
        run_command(chat, "/save")


def test_stats_are_those_of_the_last_answer(chat, capsys):
    chat.session.stats = None
    run_command(chat, "/stats")
    answer(chat, "hello")
    run_command(chat, "/stats")
    shown = capsys.readouterr().out
    assert shown.startswith("no answer yet\n")
    assert "4 tokens" in shown.splitlines()[-4]
    assert "float32, 3,072 bytes a token" in shown.splitlines()[-1]
