"""Prompts in, answers out: the Python interface to the runtime."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from mindpress.checkpoint.companions import load_tokenizer
from mindpress.checkpoint.hub import local_folder
from mindpress.engine.answer_text import AnswerText
from mindpress.engine.config import EngineConfig, GenerationConfig
from mindpress.engine.defaults import ModelDefaults, read_defaults
from mindpress.engine.logprobs import TokenLogprobs
from mindpress.engine.opening import open_runtime
from mindpress.engine.request import Finish
from mindpress.engine.runtime import Answer, Runtime
from mindpress.engine.template import Message, encode_messages, has_template
from mindpress.errors import ConfigError
from mindpress.events import Listener, ignore
from mindpress.sources.opening import open_source

Prompt = str | Sequence[Message]
Prompts = Prompt | Sequence[Prompt]


@dataclass(frozen=True, slots=True)
class Response:
    """An answer, or with `stream_infer` the next piece of one.

    `index` is the place of its prompt. `finish_reason` is None while more is to come: "eos" the
    model ended it, "stop" a stop text, "length" max_new_tokens, "context" no room is left.
    """

    text: str
    index: int
    input_token_len: int
    generate_token_len: int
    finish_reason: Finish | None
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None = None


class Pipeline:
    """A model that answers many prompts at once. Equal beginnings of prompts are read once."""

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Any,
        defaults: ModelDefaults,
        gen_config: GenerationConfig | None = None,
    ) -> None:
        self.runtime, self.tokenizer = runtime, tokenizer
        self._defaults, self._config = defaults, gen_config or GenerationConfig()

    def __call__(
        self, prompts: Prompts, gen_config: GenerationConfig | None = None
    ) -> Response | list[Response]:
        """The answer to one prompt, or those to a list of prompts in its order.

        A prompt is a text, which becomes a message of the user, or a list of messages with `role`
        and `content`. With `n` above 1 the answers to a prompt follow one another. ConfigError
        before anything is computed when a prompt does not fit.
        """
        whole: dict[int, Response] = {}
        for piece in self.stream_infer(prompts, gen_config):
            before = whole.get(piece.index)
            text = piece.text if before is None else before.text + piece.text
            whole[piece.index] = replace(piece, text=text)
        answers = [whole[index] for index in sorted(whole)]
        return answers[0] if _is_single(prompts) and len(answers) == 1 else answers

    def stream_infer(
        self, prompts: Prompts, gen_config: GenerationConfig | None = None
    ) -> Iterator[Response]:
        """Pieces of all answers as they are computed; the last of each says why it ended.

        Stop reading to stop the answers. Threads and streams of one pipeline are computed together.
        """
        config = gen_config or self._config
        if not isinstance(prompts, Sequence):
            raise ConfigError(
                f"prompts are a text or a list of them, not {type(prompts).__name__}",
                hint="make a list of it",
            )
        listed = [cast(Prompt, prompts)] if _is_single(prompts) else list(cast(Any, prompts))
        writing = self._begin(listed, config)
        try:
            while writing:
                yield from self._next_pieces(writing)
        finally:
            for answer in list(writing):
                self.runtime.end(answer)

    def _next_pieces(self, writing: "dict[Answer, _Text]") -> list[Response]:
        """Compute a step, unless one of another thread or stream brought something already."""
        with self.runtime.lock:
            if not any(text.is_behind(answer) for answer, text in writing.items()):
                self.runtime.step()
            return [piece for answer in list(writing) for piece in self._piece(writing, answer)]

    def close(self) -> None:
        """End the other processes of a tensor-parallel run."""
        self.runtime.close()

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, prompts: Sequence[Prompt], config: GenerationConfig) -> "dict[Answer, _Text]":
        encoded = [self._encoded(prompt) for prompt in prompts]
        writing: dict[Answer, _Text] = {}
        try:
            for ids in encoded:
                for own in _each(config):
                    answer = self.runtime.add(
                        ids, own, self._defaults.eos_ids, self._defaults.sampling
                    )
                    text = AnswerText(self.tokenizer, config.stop)
                    writing[answer] = _Text(text, len(writing))
        except Exception:
            for answer in writing:
                self.runtime.end(answer)
            raise
        return writing

    def _piece(self, writing: "dict[Answer, _Text]", answer: Answer) -> Iterator[Response]:
        text = writing[answer]
        piece = text.taken(answer)
        if text.text.stopped and answer.finish is None:
            self.runtime.end(answer, "stop")
        elif answer.finish is not None and not text.text.stopped:
            piece += text.text.finish()
        finish = "stop" if text.text.stopped else answer.finish
        if finish is not None:
            del writing[answer]
        if piece or finish is not None:
            yield Response(
                text=piece,
                index=text.index,
                input_token_len=answer.prompt_tokens,
                generate_token_len=len(answer.tokens),
                finish_reason=finish,
                token_ids=list(answer.tokens),
                logprobs=None if answer.wanted_logprobs is None else list(answer.logprobs),
            )

    def _encoded(self, prompt: Prompt) -> list[int]:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if not isinstance(messages, Sequence) or not all(map(_is_message, messages)):
            raise ConfigError(
                f"a prompt is a text or a list of messages, not {prompt!r}",
                hint='for example [{"role": "user", "content": "Hello"}]',
            )
        if not has_template(self.tokenizer) and isinstance(prompt, str):
            return list(self.tokenizer(prompt, verbose=False)["input_ids"])
        return encode_messages(self.tokenizer, messages)


@dataclass(slots=True)
class _Text:
    """The text of one answer, and how many of its tokens are in it."""

    text: AnswerText
    index: int
    read: int = 0

    def is_behind(self, answer: Answer) -> bool:
        return self.read < len(answer.tokens) or answer.finish is not None

    def taken(self, answer: Answer) -> str:
        piece = ""
        while self.read < len(answer.tokens) and not self.text.stopped:
            piece += self.text.push(answer.tokens[self.read])
            self.read += 1
        return piece


def pipeline(
    path: str | Path,
    engine_config: EngineConfig | None = None,
    gen_config: GenerationConfig | None = None,
    *,
    trust_remote_code: bool = False,
    listener: Listener = ignore,
) -> Pipeline:
    """Open the model in `path` (a folder, a workspace, or a Hub id) to answer prompts.

    Tokenizer and settings are checked before the weights are read; `listener` hears the loading.
    """
    folder = local_folder(str(path))
    beside = open_source(folder).tokenizer_folder
    tokenizer = load_tokenizer(beside, trust_remote_code=trust_remote_code)
    defaults = read_defaults(beside, tokenizer)
    runtime = open_runtime(folder, engine_config or EngineConfig(), listener)
    return Pipeline(runtime, tokenizer, defaults, gen_config)


def _each(config: GenerationConfig) -> Iterator[GenerationConfig]:
    """The settings of each of the `n` answers to a prompt."""
    for number in range(config.n):
        seed = None if config.seed is None else config.seed + number
        yield replace(config, seed=seed, n=1)


def _is_message(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    return all(isinstance(value.get(key), str) for key in ("role", "content"))


def _is_single(prompts: Prompts) -> bool:
    """Whether it is one prompt: a text, or a list of messages."""
    return isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], Mapping))
