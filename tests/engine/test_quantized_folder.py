"""An AWQ folder computes what its dequantized weights compute."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_awq import quantize_folder
from tiny_models import save_tiny
from transformers import AutoModelForCausalLM

from mindpress.engine.config import EngineConfig
from mindpress.engine.loader import load_decoder
from mindpress.formats.quantized import QuantSpec
from mindpress.sources.folder import open_folder

GROUP = 64
# AutoAWQ 0.2.9, awq/utils/packing_utils.py: where in a word its eight codes are.
PLACES = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])


def codes(words):
    unpacked = words.unsqueeze(-1) >> (4 * PLACES) & 15
    return unpacked.flatten(1).float()


def dense_weights(folder):
    """Module name -> weight [outputs, inputs], by the definition of the format."""
    tensors = load_file(folder / "model.safetensors")
    dense = {}
    for name in [name for name in tensors if name.endswith(".qweight")]:
        module = name.removesuffix(".qweight")
        scales, zeros = tensors[f"{module}.scales"].float(), codes(tensors[f"{module}.qzeros"])
        groups = codes(tensors[name]).unflatten(0, (-1, GROUP))
        weight = (groups - zeros.unsqueeze(1)) * scales.unsqueeze(1)
        dense[module] = weight.flatten(0, 1).t()
    return dense


@pytest.mark.parametrize(
    ("family", "left", "linears"),
    [("qwen2", "none", 14), ("phi3", "none", 8), ("llama", "down_proj", 12)],
    ids=["with biases", "fused", "down left in 16 bits"],
)
@torch.no_grad()
def test_logits_are_those_of_the_dequantized_weights(family, left, linears, tmp_path):
    save_tiny(family, tmp_path, tokenizer=False)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    quantize_folder(tmp_path, QuantSpec(group_size=GROUP), left=left)
    dense = dense_weights(tmp_path)
    assert len(dense) == linears
    for module, weight in dense.items():
        model.get_submodule(module).weight.copy_(weight)
    ids = torch.randint(0, 4096, (1, 40), generator=torch.Generator().manual_seed(1))
    decoder = load_decoder(open_folder(tmp_path), EngineConfig("cpu"))
    got = decoder.logits(decoder.hidden(ids))
    torch.testing.assert_close(got, model(ids).logits, rtol=1e-4, atol=1e-4)
