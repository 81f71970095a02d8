"""Messages of a conversation -> prompt tokens, by the tokenizer's chat template."""

from collections.abc import Sequence
from typing import Any

from mindpress.engine.deadline import deadline
from mindpress.errors import ConfigError, InputError

Message = dict[str, str]
# Real templates take a thousandth of this.
SECONDS = 2.0
ANOTHER = "use the chat_template.jinja of the original model"


def has_template(tokenizer: Any) -> bool:
    """Whether the tokenizer knows how its model was taught to converse."""
    return bool(getattr(tokenizer, "chat_template", None))


def encode_messages(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Prompt tokens up to where the answer begins.

    Special tokens that stand in a message as text stay text. The template runs in the sandbox of
    jinja, and not for ever. Raises ConfigError when it refuses the messages, InputError when it
    does not end. Without a template the messages are
    joined by line ends, which suits base models: they continue the text.
    """
    if not has_template(tokenizer):
        text = "\n".join(message["content"] for message in messages)
        return list(tokenizer(text, verbose=False)["input_ids"])
    try:
        _refuse_powers(tokenizer.get_chat_template())
        with deadline(SECONDS):
            ids = tokenizer.apply_chat_template(
                list(messages),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                sanitize_control_tokens=True,
                # It would warn of a long text; whether it fits is checked with the model.
                tokenizer_kwargs={"verbose": False},
            )
    except TimeoutError:
        raise InputError(
            f"the model's chat template does not come to an end in {SECONDS:g} s", hint=ANOTHER
        ) from None
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - a template is code: it raises what it likes
        roles = ", ".join(dict.fromkeys(message["role"] for message in messages))
        raise ConfigError(
            f"the model's chat template refuses messages of {roles}: {error}",
            hint="some models know no system message: leave it out",
        ) from None
    return list(ids)


def _refuse_powers(template: str) -> None:
    """`9**9**9` is one operation, which no deadline interrupts, and no template needs one."""
    from jinja2 import Environment

    before = ""
    for _, kind, text in Environment().lex(template):
        if kind == "operator" and text == "**" and before not in ("(", ","):
            raise InputError("the model's chat template raises to powers", hint=ANOTHER)
        before = before if kind == "whitespace" else text
