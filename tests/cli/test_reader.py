import stat

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from mindpress.cli.reader import is_open, reader, saved_history, state_folder, unfenced

ENTER, ALT_ENTER, CTRL_C, CTRL_D = "\r", "\x1b\r", "\x03", "\x04"


def typed(keys, history=None):
    """What the reader returns for these keys."""
    with create_pipe_input() as keyboard, create_app_session(keyboard, DummyOutput()):
        keyboard.send_text(keys)
        return reader(history or InMemoryHistory())()


@pytest.mark.parametrize(("keys", "message"), [
    ("hello" + ENTER, "hello"),
    ("  hello  " + ENTER, "hello"),
    ("one" + ALT_ENTER + "two" + ENTER, "one\ntwo"),
    ('"""' + ENTER + "one" + ENTER + "two" + ENTER + '"""' + ENTER, "one\ntwo"),
    ('"""one"""' + ENTER, "one"),
    ('""""""' + ENTER, ""),
    ('say """ twice' + ENTER, 'say """ twice'),
    (ENTER, ""),
])  # fmt: skip
def test_a_message_is_sent_by_enter(keys, message):
    assert typed(keys) == message


@pytest.mark.parametrize(("key", "error"), [(CTRL_C, KeyboardInterrupt), (CTRL_D, EOFError)])
def test_the_keys_that_send_nothing(key, error):
    with pytest.raises(error):
        typed(key)


def test_the_last_message_comes_back_with_the_arrow_key():
    history = InMemoryHistory()
    typed("first" + ENTER, history)
    assert typed("\x1b[A" + ENTER, history) == "first"


def test_history_is_kept_for_its_writer_only(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    typed("a secret" + ENTER, saved_history())
    file = state_folder() / "chat-history"
    assert file == tmp_path / "mindpress" / "chat-history"
    assert "a secret" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert typed("\x1b[A" + ENTER, saved_history()) == "a secret"


def test_a_state_folder_that_cannot_be_made_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert isinstance(saved_history(), InMemoryHistory)


def test_fences():
    assert is_open('"""')
    assert is_open('"""one\n')
    assert not is_open('"""one"""')
    assert not is_open("one")
    assert unfenced('"""\none\n"""') == "one"
    assert unfenced('"""open') == '"""open'
