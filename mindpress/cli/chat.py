"""`mindpress chat`: talk to a model, in a terminal or through a pipe."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mindpress.cli.console import Console
from mindpress.cli.memory_words import runtime_pairs
from mindpress.cli.options import (
    CacheSizeOpt,
    DeviceOpt,
    DownloadDirOpt,
    DryRunOpt,
    GenerationSeedOpt,
    JsonOpt,
    KernelsOpt,
    MaxNewTokensOpt,
    PathArg,
    PenaltyOpt,
    PolicyOpt,
    QuietOpt,
    RevisionOpt,
    RunDtypeOpt,
    SessionLenOpt,
    StopOpt,
    TemperatureOpt,
    ThreadsOpt,
    TopKOpt,
    TopPOpt,
    TrustOpt,
)
from mindpress.cli.progress import Progress
from mindpress.engine.config import EngineConfig, GenerationConfig, quant_policy_of
from mindpress.errors import ConfigError, InputError

if TYPE_CHECKING:
    from mindpress.engine.chat import ChatSession
    from mindpress.engine.runtime_plan import RuntimePlan

ENCODING_HINT = "convert the text to UTF-8"

PromptOpt = Annotated[
    str | None, typer.Option("--prompt", "-p", help="Answer this and end; no terminal needed.")
]
SystemOpt = Annotated[
    str | None, typer.Option("--system", help="System message: what the model is to be.")
]
IgnoreEosOpt = Annotated[
    bool, typer.Option("--ignore-eos", help="Go on where the model would end, for measurements.")
]


def chat(
    path: PathArg,
    prompt: PromptOpt = None,
    system: SystemOpt = None,
    max_new_tokens: MaxNewTokensOpt = 512,
    temperature: TemperatureOpt = None,
    top_k: TopKOpt = None,
    top_p: TopPOpt = None,
    repetition_penalty: PenaltyOpt = None,
    seed: GenerationSeedOpt = None,
    stop: StopOpt = None,
    ignore_eos: IgnoreEosOpt = False,
    device: DeviceOpt = "auto",
    dtype: RunDtypeOpt = "auto",
    threads: ThreadsOpt = None,
    quant_policy: PolicyOpt = None,
    kernels: KernelsOpt = "auto",
    session_len: SessionLenOpt = None,
    cache_memory: CacheSizeOpt = None,
    revision: RevisionOpt = None,
    download_dir: DownloadDirOpt = None,
    trust_remote_code: TrustOpt = False,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Talk to a model.

    In a terminal a conversation: /help lists its commands. With a pipe or --prompt it answers
    once: `echo hi | mindpress chat PATH` prints the answer alone.
    """
    config = GenerationConfig(
        max_new_tokens,
        temperature,
        top_k,
        top_p,
        repetition_penalty,
        seed,
        tuple(stop or ()),
        ignore_eos,
    )
    engine = EngineConfig(
        device,
        dtype,
        threads,
        quant_policy_of(quant_policy),
        kernels,
        session_len=session_len,
        cache_memory=cache_bytes(cache_memory),
    )
    console = Console(as_json=json, quiet=quiet)
    place = Place(path, revision, download_dir, trust_remote_code)
    system = system and readable(system, "--system")
    question = prompt and readable(prompt, "--prompt")
    if dry_run:
        show_plan(planned(place, engine, console), console)
        return
    question = piped() if prompt is None else question
    if question is None and json:
        raise ConfigError("--json: a conversation is no single object", hint="add --prompt TEXT")
    session = opened(place, engine, system, console)
    if question is None:
        talk(session, config, console)
    else:
        answer_once(session, config, console, question)


def cache_bytes(size: str | None) -> int | None:
    """The value of --cache-memory."""
    from mindpress.checkpoint.writer import parse_size

    return None if size is None else parse_size(size, "--cache-memory")


def piped() -> str | None:
    """What was piped in; None when stdin is a terminal."""
    if sys.stdin is None or sys.stdin.isatty():
        return None
    try:
        text = readable(sys.stdin.read().strip(), "stdin")
    except UnicodeDecodeError:
        raise InputError("stdin: not UTF-8", hint=ENCODING_HINT) from None
    if not text:
        raise ConfigError("stdin is empty", hint="pipe a question in, or add --prompt TEXT")
    return text


def readable(text: str, where: str) -> str:
    """The text; InputError when it holds bytes that Python could not decode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: not UTF-8", hint=ENCODING_HINT) from None
    return text


@dataclass(frozen=True, slots=True)
class Place:
    """Where the model is, and whether its own code may run."""

    path: str
    revision: str | None
    download_dir: Path | None
    trust_remote_code: bool


def opened(
    place: Place, engine: EngineConfig, system: str | None, console: Console
) -> "ChatSession":
    """The conversation with the model at `place`."""
    from mindpress.checkpoint.hub import local_folder
    from mindpress.engine.chat import open_chat

    with Progress(console) as listener:
        return open_chat(
            local_folder(place.path, revision=place.revision, download_dir=place.download_dir),
            engine,
            system=system,
            trust_remote_code=place.trust_remote_code,
            listener=listener,
        )


def planned(place: Place, engine: EngineConfig, console: Console) -> "RuntimePlan":
    """What the conversation would take."""
    from mindpress.checkpoint.hub import local_folder
    from mindpress.engine.chat import plan_chat

    with Progress(console) as listener:
        return plan_chat(
            local_folder(place.path, revision=place.revision, download_dir=place.download_dir),
            engine,
            trust_remote_code=place.trust_remote_code,
            listener=listener,
        )


def show_plan(plan: "RuntimePlan", console: Console) -> None:
    """What would be in memory."""
    console.result(plan.as_dict())
    console.heading(f"Plan: {plan.model}; nothing was written")
    console.pairs(runtime_pairs(plan))


def talk(session: "ChatSession", config: GenerationConfig, console: Console) -> None:
    """A conversation in the terminal."""
    from mindpress.cli.reader import reader, saved_history
    from mindpress.cli.repl import converse
    from mindpress.cli.slash import Chat

    console.say("/help lists what you can say to the chat itself; Ctrl-D leaves", "dim")
    converse(Chat(session, config, console), reader(saved_history()))


def answer_once(
    session: "ChatSession", config: GenerationConfig, console: Console, question: str
) -> None:
    """The answer alone on stdout; its figures on stderr."""
    from mindpress.cli.slash import described

    pieces = []
    for piece in session.ask(question, config):
        pieces.append(piece)
        if not console.as_json:
            console.stream(piece)
    if not console.as_json:
        console.stream("\n")
    console.result({"question": question, "answer": "".join(pieces), "stats": session.stats})
    if session.stats:
        console.say(f"({described(session.stats)})", "dim")
