"""A conversation with a model on disk."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mindpress.checkpoint.companions import load_tokenizer
from mindpress.checkpoint.hub import local_folder
from mindpress.engine.config import EngineConfig, GenerationConfig
from mindpress.engine.defaults import ModelDefaults, read_defaults
from mindpress.engine.generate import Generation, generate
from mindpress.engine.opening import open_runtime
from mindpress.engine.runtime import Runtime
from mindpress.engine.runtime_plan import RuntimePlan, plan_runtime
from mindpress.engine.stream import AnswerStats, TextStream
from mindpress.engine.template import Message, encode_messages, has_template
from mindpress.errors import MindpressError
from mindpress.events import Listener, Note, ignore
from mindpress.sources.opening import open_source


class ChatSession:
    """Questions in, answers out, both remembered until `clear`.

    `messages` are the questions and answers so far, without the `system` message, which may be set
    at any time. `stats` are those of the latest answer. What a prompt has in common with what was
    read before is not computed again.
    """

    def __init__(
        self, runtime: Runtime, tokenizer: Any, defaults: ModelDefaults, system: str | None = None
    ) -> None:
        self.system = system
        self.messages: list[Message] = []
        self.stats: AnswerStats | None = None
        self._tokenizer, self._defaults = tokenizer, defaults
        self._runtime = runtime
        self._generation: Generation | None = None

    def ask(self, text: str, config: GenerationConfig | None = None) -> Iterator[str]:
        """Pieces of the answer as they are computed. Stop reading to stop the answer; what was
        given of it is remembered.

        Raises ConfigError at once when the conversation no longer fits the model's context.
        """
        config = config or GenerationConfig()
        before = [{"role": "system", "content": self.system}] if self.system else []
        question = {"role": "user", "content": text}
        prompt = encode_messages(self._tokenizer, [*before, *self.messages, question])
        if self._generation is not None:
            self._generation.close()  # asked and never read
        self._generation = generation = generate(
            self._runtime,
            prompt,
            config,
            self._defaults.eos_ids,
            defaults=self._defaults.sampling,
        )
        return self._answer(question, generation, config, len(prompt))

    @property
    def weights(self) -> str:
        """How the linears are kept and multiplied, for people."""
        return self._runtime.decoder.weights

    @property
    def cache(self) -> str:
        """How keys and values are kept, for people."""
        decoder, memory = self._runtime.decoder, self._runtime.memory
        size = memory.nbytes // (memory.pages * memory.tokens)
        return f"{decoder.cache_plan.describe(decoder.dtype)}, {size:,} bytes a token"

    def clear(self) -> None:
        """Forget questions and answers; the system message stays."""
        self.messages.clear()

    def _answer(
        self, question: Message, generation: Generation, config: GenerationConfig, prompt: int
    ) -> Iterator[str]:
        stream = TextStream(generation, self._tokenizer, config.stop)
        answer = {"role": "assistant", "content": ""}
        self.messages += [question, answer]
        try:
            for piece in stream:
                answer["content"] += piece
                yield piece
        except MindpressError:
            del self.messages[-2:]
            raise
        finally:
            generation.close()
            self.stats = stream.stats(prompt)


def open_chat(
    path: str | Path,
    engine_config: EngineConfig | None = None,
    *,
    system: str | None = None,
    trust_remote_code: bool = False,
    listener: Listener = ignore,
) -> ChatSession:
    """A conversation with the model in `path` (a folder, a workspace, or a Hub id).

    The tokenizer is opened before the weights are read. `listener` hears the loading, and a Note
    when the tokenizer has no chat template.
    """
    place = local_folder(str(path))
    tokenizer, defaults = _tokenizer(place, listener, trust_remote_code=trust_remote_code)
    runtime = open_runtime(place, _alone(engine_config), listener)
    return ChatSession(runtime, tokenizer, defaults, system)


def plan_chat(
    path: str | Path,
    engine_config: EngineConfig | None = None,
    *,
    trust_remote_code: bool = False,
    listener: Listener = ignore,
) -> RuntimePlan:
    """What `open_chat` with the same arguments takes. Reads the tokenizer, and no weights."""
    place = local_folder(str(path))
    _tokenizer(place, listener, trust_remote_code=trust_remote_code)
    return plan_runtime(place, open_source(place), _alone(engine_config), listener)


def _tokenizer(
    place: Path, listener: Listener, *, trust_remote_code: bool
) -> tuple[Any, ModelDefaults]:
    folder = open_source(place).tokenizer_folder
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    if not has_template(tokenizer):
        listener(Note(f"{folder}: no chat template; messages are joined as plain text"))
    return tokenizer, read_defaults(folder, tokenizer)


def _alone(config: EngineConfig | None) -> EngineConfig:
    return replace(config or EngineConfig(), max_batch_size=1)
