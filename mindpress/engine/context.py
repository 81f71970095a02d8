"""How many tokens a model can attend to."""

from mindpress.errors import InputError
from mindpress.models.shape import ModelShape

# Kinds whose config gives the lengthened context as `max_position_embeddings` already.
ALREADY_LONG = ("default", "longrope", "llama3")


def context_length(shape: ModelShape) -> int:
    """Prompt and answer together, in tokens.

    Linear, dynamic and yarn rotary scaling lengthen it by their factor.
    Source: vLLM 0.6, `config.py`, `_get_and_verify_max_len`.
    """
    if shape.rope.kind in ALREADY_LONG:
        return shape.max_length
    length = float(shape.max_length)
    if shape.rope.kind == "yarn":
        length = shape.rope.get("original_max_position_embeddings", length)
    factor = shape.rope.get("factor", 1.0)
    if not 1 <= factor < 1e6:
        raise InputError(f"config.json: rope `factor` is {factor}, expected 1 or more")
    return int(length * factor)
