"""The loop of a chat: read a message, stream the answer, say what it cost."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from mindpress.cli.slash import Chat, described, run_command
from mindpress.errors import MindpressError


def converse(chat: Chat, read: Callable[[], str]) -> None:
    """Until /exit or Ctrl-D. A mistake is shown and the conversation goes on."""
    while not chat.over:
        try:
            line = read()
        except EOFError:
            return
        except KeyboardInterrupt:
            chat.console.say("Ctrl-D or /exit leaves", "dim")
            continue
        try:
            respond(chat, line)
        except MindpressError as error:
            chat.console.error(str(error), error.hint)


def respond(chat: Chat, line: str) -> None:
    """Do what a line asks for: a command, or an answer."""
    if line.startswith("/"):
        run_command(chat, line)
    elif line:
        answer(chat, line)


def answer(chat: Chat, text: str) -> None:
    """Stream the answer to `text`; Ctrl-C ends it, and what came of it is remembered."""
    with interruptible() as interrupted:
        for piece in chat.session.ask(text, chat.config):
            chat.console.stream(piece)
            if interrupted():
                break
    chat.console.stream("\n")
    stats = chat.session.stats
    if stats:
        stopped = "stopped, " if interrupted() else ""
        chat.console.say(f"({stopped}{described(stats)})", "dim")


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Inside, Ctrl-C is noted instead of raised, so that it never tears a computation apart."""
    seen: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        seen.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, before)
