from dataclasses import replace

import pytest

from mindpress.engine.context import context_length
from mindpress.errors import InputError
from mindpress.models.registry import describe
from mindpress.models.shape import Rope, read_shape

SHAPE = read_shape(
    {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 1,
        "intermediate_size": 64,
        "vocab_size": 8,
        "max_position_embeddings": 4096,
    },
    describe("LlamaForCausalLM"),
)
ORIGINAL = "original_max_position_embeddings"


@pytest.mark.parametrize(
    ("kind", "parameters", "length"),
    [
        ("default", {}, 4096),
        ("linear", {"factor": 4.0}, 16384),
        ("dynamic", {"factor": 2.0}, 8192),
        ("yarn", {"factor": 4.0, ORIGINAL: 1024}, 4096),
        ("yarn", {"factor": 4.0}, 16384),
        ("llama3", {"factor": 8.0, ORIGINAL: 512}, 4096),
        ("longrope", {"factor": 8.0, ORIGINAL: 512}, 4096),
    ],
)
def test_scaled_positions_lengthen_the_context(kind, parameters, length):
    shape = replace(SHAPE, rope=Rope(1e4, kind, parameters))
    assert context_length(shape) == length


def test_an_absurd_factor_is_refused():
    with pytest.raises(InputError, match="factor"):
        context_length(replace(SHAPE, rope=Rope(1e4, "linear", {"factor": 0.0})))
