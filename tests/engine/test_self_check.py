"""The check of GPU kernels when a model is opened, in the interpreter."""

from dataclasses import replace

import pytest
import torch
from tiny_awq import quantize_folder
from tiny_models import save_tiny

from mindpress.engine import self_check
from mindpress.engine.config import EngineConfig
from mindpress.engine.loader import load_decoder
from mindpress.engine.opening import runtime_of
from mindpress.errors import NumericError
from mindpress.formats.quantized import QuantSpec
from mindpress.kernels.paged import paged_operations
from mindpress.sources.opening import open_source

SIZES = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1, "head_dim": 64,
         "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 64}  # fmt: skip
# What lies in pages where nothing was written may be anything; it is masked after the product.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    monkeypatch.setattr(self_check, "ROWS", (1, 24))
    save_tiny("llama", tmp_path, tokenizer=False, **SIZES)
    quantize_folder(tmp_path, QuantSpec(4, 64))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = EngineConfig(device, "float16", kernels="triton", max_batch_size=2, session_len=64)
    return runtime_of(load_decoder(open_source(tmp_path), config), config)


def test_kernels_that_are_right_pass(runtime):
    self_check.check_products(runtime.decoder)
    operations = paged_operations(runtime.decoder.kernels)
    self_check.check_cache(runtime.decoder, runtime.memory.layers[0], operations)


def test_a_wrong_product_is_an_error(runtime, monkeypatch):
    right = self_check.untile_weight

    def other(tiled):
        return right(replace(tiled, words=tiled.words ^ 1))

    monkeypatch.setattr(self_check, "untile_weight", other)
    with pytest.raises(NumericError, match="wrong on this GPU: the product of 1 rows"):
        self_check.check_products(runtime.decoder)


def test_wrong_attention_is_an_error(runtime):
    operations = paged_operations(runtime.decoder.kernels)
    wrong = replace(operations, attend=lambda *given: operations.attend(*given) * 1.1)
    with pytest.raises(NumericError, match="attention of"):
        self_check.check_cache(runtime.decoder, runtime.memory.layers[0], wrong)
