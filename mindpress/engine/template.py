"""Messages of a conversation -> prompt tokens, by the tokenizer's chat template."""

from collections.abc import Sequence
from typing import Any

from mindpress.errors import ConfigError

Message = dict[str, str]


def has_template(tokenizer: Any) -> bool:
    """Whether the tokenizer knows how its model was taught to converse."""
    return bool(getattr(tokenizer, "chat_template", None))


def encode_messages(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Prompt tokens up to where the answer begins.

    Special tokens that stand in a message as text stay text. Without a template the messages are
    joined by line ends, which suits base models: they continue the text.
    """
    if not has_template(tokenizer):
        text = "\n".join(message["content"] for message in messages)
        return list(tokenizer(text, verbose=False)["input_ids"])
    from jinja2 import TemplateError

    try:
        ids = tokenizer.apply_chat_template(
            list(messages),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            sanitize_control_tokens=True,
            # The tokenizer would warn of a long text; whether it fits is checked with the model.
            tokenizer_kwargs={"verbose": False},
        )
    except (TemplateError, ValueError, TypeError) as error:
        roles = ", ".join(dict.fromkeys(message["role"] for message in messages))
        raise ConfigError(
            f"the model's chat template refuses messages of {roles}: {error}",
            hint="some models know no system message: leave it out",
        ) from None
    return list(ids)
