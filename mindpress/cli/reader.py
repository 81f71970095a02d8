"""What the user types in a chat: history, several lines, keys."""

import os
from collections.abc import Callable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

FENCE = '"""'
PROMPT, MORE = ">>> ", "... "


def reader(history: History) -> Callable[[], str]:
    """A function that reads one message; EOFError on Ctrl-D, KeyboardInterrupt on Ctrl-C.

    Enter sends, but inside an open triple quote it begins a line; so does Alt-Enter anywhere.
    """
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession(
        history=history, multiline=True, key_bindings=keys, prompt_continuation=MORE
    )
    return lambda: unfenced(session.prompt(PROMPT))


def is_open(text: str) -> bool:
    """Whether a triple quote at the beginning of `text` waits for its end."""
    begun = text.lstrip()
    return begun.startswith(FENCE) and not begun[len(FENCE) :].rstrip().endswith(FENCE)


def unfenced(text: str) -> str:
    """A message without the triple quotes around it."""
    inner = text.strip()
    if inner.startswith(FENCE) and not is_open(inner):
        return inner[len(FENCE) : -len(FENCE)].strip("\n")
    return inner


def saved_history() -> History:
    """The messages of earlier chats, readable by their writer only; in memory where the state
    folder cannot be written.
    """
    file = state_folder() / "chat-history"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(file))


def state_folder() -> Path:
    """Where programs keep what is worth keeping between runs, by the XDG base directories."""
    named = os.environ.get("XDG_STATE_HOME")
    return (Path(named) if named else Path.home() / ".local" / "state") / "mindpress"
