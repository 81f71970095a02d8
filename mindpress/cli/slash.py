"""What a user can tell the chat itself: `/help`, `/set temperature 0`, `/save chat.md`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindpress.cli.console import Console
from mindpress.engine.config import GenerationConfig
from mindpress.errors import ConfigError, ResourceError
from mindpress.report.numbers import duration

if TYPE_CHECKING:
    from mindpress.engine.chat import ChatSession
    from mindpress.engine.stream import AnswerStats

FLOATS = ("temperature", "top_p", "repetition_penalty")
SETTINGS = tuple(field.name for field in fields(GenerationConfig))
NONE = "none"


@dataclass
class Chat:
    """A conversation on a screen, and how the next answer is generated."""

    session: "ChatSession"
    config: GenerationConfig
    console: Console
    over: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """What stands after the slash: its arguments, its meaning, and what it does."""

    arguments: str
    meaning: str
    run: Callable[[Chat, str], None]


def run_command(chat: Chat, line: str) -> None:
    """Do what a line that begins with a slash says; ConfigError when it says nothing known."""
    name, _, rest = line.removeprefix("/").partition(" ")
    if name not in COMMANDS:
        raise ConfigError(f"/{name}: no such command", hint="/help lists them")
    COMMANDS[name].run(chat, rest.strip())


def described(stats: "AnswerStats") -> str:
    """`128 tokens, 21.3 tokens/s, first after 0.4 s`."""
    parts = [f"{stats.new_tokens} tokens"]
    if stats.tokens_per_second:
        parts.append(f"{stats.tokens_per_second:.1f} tokens/s")
    if stats.new_tokens:
        parts.append(f"first after {duration(stats.seconds_to_first_token)}")
    if stats.finish == "length":
        parts.append("cut at max_new_tokens")
    if stats.finish == "context":
        parts.append("the model's context is full: /clear begins anew")
    return ", ".join(parts)


def with_setting(config: GenerationConfig, name: str, text: str) -> GenerationConfig:
    """The configuration with one setting changed; ConfigError names what is wrong."""
    name = name.replace("-", "_")
    if name not in SETTINGS:
        raise ConfigError(f"/set {name}: no such setting", hint=f"one of {', '.join(SETTINGS)}")
    return replace(config, **{name: _value(name, text)})


def _value(name: str, text: str) -> Any:
    if name == "stop":
        return () if text == NONE else tuple(text.split())
    if name == "ignore_eos":
        return text.lower() in ("true", "yes", "1")
    if text == NONE and name != "max_new_tokens":
        return None
    try:
        return float(text) if name in FLOATS else int(text)
    except ValueError:
        kind = "a number" if name in FLOATS else "a whole number"
        raise ConfigError(f"/set {name} {text}: not {kind}") from None


def _help(chat: Chat, _: str) -> None:
    width = max(len(f"/{name} {command.arguments}") for name, command in COMMANDS.items())
    for name, command in COMMANDS.items():
        chat.console.text(f"{f'/{name} {command.arguments}'.ljust(width)}  {command.meaning}")
    chat.console.text('""" begins and ends a message of several lines; Alt-Enter begins a line')
    chat.console.text("Ctrl-C stops an answer, Ctrl-D leaves")


def _clear(chat: Chat, _: str) -> None:
    chat.session.clear()
    chat.console.say("the conversation begins anew")


def _system(chat: Chat, text: str) -> None:
    if text:
        chat.session.system = None if text == NONE else text
    chat.console.text(f"system: {chat.session.system or NONE}")


def _set(chat: Chat, text: str) -> None:
    name, _, value = text.partition(" ")
    if value:
        chat.config = with_setting(chat.config, name, value.strip())
    elif name:
        raise ConfigError(f"/set {name}: no value", hint="for example /set temperature 0.5")
    shown = {field: getattr(chat.config, field) for field in SETTINGS}
    chat.console.pairs({field: _shown(field, value) for field, value in shown.items()})


def _shown(name: str, value: Any) -> str:
    if value is None:
        return NONE if name == "seed" else "the model's"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(value) or NONE
    return str(value)


def _save(chat: Chat, text: str) -> None:
    if not text:
        raise ConfigError("/save: no file named", hint="for example /save chat.md, or chat.json")
    file = Path(text).expanduser()
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(transcript(chat.session, as_json=file.suffix == ".json"))
    except FileExistsError:
        raise ConfigError(f"{file}: is there already", hint="name a new file") from None
    except OSError as error:
        raise ResourceError(f"{file}: {error.strerror}", hint="name another place") from None
    chat.console.say(f"saved {len(chat.session.messages)} messages to {file}")


def transcript(session: "ChatSession", *, as_json: bool) -> str:
    """The conversation as Markdown, or as the list of messages that chat APIs take."""
    before = [{"role": "system", "content": session.system}] if session.system else []
    messages = [*before, *session.messages]
    if as_json:
        return json.dumps(messages, indent=2, ensure_ascii=False) + "\n"
    return "\n".join(f"## {message['role']}\n\n{message['content']}\n" for message in messages)


def _stats(chat: Chat, _: str) -> None:
    stats = chat.session.stats
    if stats is None:
        chat.console.text("no answer yet")
        return
    chat.console.pairs(
        {
            "prompt": f"{stats.prompt_tokens} tokens, {stats.reused_tokens} read before",
            "answer": described(stats),
            "messages": str(len(chat.session.messages)),
            "linears": chat.session.weights,
            "cache": chat.session.cache,
        }
    )


def _exit(chat: Chat, _: str) -> None:
    chat.over = True


COMMANDS = {
    "help": Command("", "show this", _help),
    "clear": Command("", "forget the conversation; the system message stays", _clear),
    "system": Command("[TEXT|none]", "show or set the system message", _system),
    "set": Command("[NAME VALUE]", "show or change how answers are generated", _set),
    "save": Command("FILE", "write the conversation to FILE (.md or .json)", _save),
    "stats": Command("", "figures of the last answer", _stats),
    "exit": Command("", "leave", _exit),
}
