"""Whether a tokenizer and a model belong together."""

from mindpress.errors import InputError


def check_ids(largest: int, vocab: int) -> None:
    """Refuse a tokenizer that gives tokens the model does not have."""
    if largest >= vocab:
        raise InputError(
            f"the tokenizer gives token {largest}, the model's last is {vocab - 1}",
            hint="the tokenizer and the weights are of different models",
        )
