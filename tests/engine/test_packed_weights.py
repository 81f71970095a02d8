"""A decoder whose weights stay in 4 bits."""

from importlib.util import find_spec

import pytest
import torch
from tiny_awq import quantize_folder
from tiny_models import save_tiny

from mindpress.engine.config import EngineConfig
from mindpress.engine.linear import FloatLinear, PackedLinear
from mindpress.engine.loader import load_decoder
from mindpress.errors import ConfigError, ResourceError
from mindpress.formats.quantized import QuantSpec
from mindpress.kernels import dispatch
from mindpress.kernels.dispatch import choose_kernels
from mindpress.kernels.native.library import Native
from mindpress.sources.folder import open_folder

IDS = torch.randint(0, 4096, (2, 30), generator=torch.Generator().manual_seed(1))
SIZES = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "num_attention_heads": 4}
pytestmark = pytest.mark.usefixtures("native")


def logits(folder, **changes):
    decoder = load_decoder(open_folder(folder), EngineConfig("cpu", **changes))
    return decoder.logits(decoder.hidden(IDS)), decoder


@pytest.fixture(scope="module", params=["llama", "qwen2", "phi3", "gemma2"])
def folder(request, tmp_path_factory):
    """With and without biases, with fused linears and norms of their own."""
    place = tmp_path_factory.mktemp(request.param)
    return quantize_folder(save_tiny(request.param, place, tokenizer=False, **SIZES))


def test_codes_give_the_logits_of_dequantized_weights(folder):
    expected, whole = logits(folder, kernels="reference")
    found, packed = logits(folder)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    assert isinstance(whole.layers[0].gate_up, FloatLinear)
    assert isinstance(packed.layers[0].gate_up, PackedLinear)
    assert (whole.weights, packed.weights) == ("float32", "4 bits, exact")
    outer = packed._outer.embedding.nbytes * (1 if packed.shape.tied else 2)
    assert packed.nbytes - outer < 0.15 * (whole.nbytes - outer)


def test_int8_activations_are_near(folder):
    expected, found = logits(folder)[0], logits(folder, kernels="cpu-int8")[0]
    off = (found - expected).norm() / expected.norm()
    assert 1e-3 < off < 0.3  # random codes make more of it than a trained model


def test_what_the_kernel_cannot_multiply_is_dequantized(tmp_path):
    spec = QuantSpec(group_size=16)
    folder = quantize_folder(save_tiny("llama", tmp_path, tokenizer=False, **SIZES), spec)
    found, decoder = logits(folder)
    assert isinstance(decoder.layers[0].gate_up, FloatLinear)
    torch.testing.assert_close(found, logits(folder, kernels="reference")[0])


def test_a_model_that_fits_in_4_bits_only_is_not_refused(tmp_path, monkeypatch):
    folder = quantize_folder(save_tiny("llama", tmp_path, tokenizer=False, **SIZES))
    _, decoder = logits(folder)
    monkeypatch.setattr("mindpress.engine.loader.available_bytes", lambda: decoder.nbytes + 2**17)
    load_decoder(open_folder(folder), EngineConfig("cpu"))
    with pytest.raises(ResourceError, match="of memory are free"):
        load_decoder(open_folder(folder), EngineConfig("cpu", kernels="reference"))


def test_kernels_that_cannot_run_are_refused_and_never_replaced(monkeypatch):
    cpu = torch.device("cpu")
    with pytest.raises(ConfigError, match="--kernels cpu: the CPU kernels compute in float32"):
        choose_kernels("cpu", cpu, torch.bfloat16)
    assert choose_kernels("auto", cpu, torch.bfloat16).name == "reference"
    assert choose_kernels("reference", cpu, torch.float32).name == "reference"
    monkeypatch.setattr(dispatch, "native", lambda: Native(None, "it was not compiled"))
    with pytest.raises(ConfigError, match="--kernels cpu: it was not compiled"):
        choose_kernels("cpu", cpu, torch.float32)
    found = choose_kernels("auto", cpu, torch.float32)
    assert found.name == ("onnxruntime" if find_spec("onnxruntime") else "torch-int4")
    assert found.reason == "it was not compiled"


def test_without_a_compiler_weights_stay_in_4_bits_all_the_same(folder, monkeypatch):
    expected = logits(folder, kernels="reference")[0]
    monkeypatch.setattr(dispatch, "native", lambda: Native(None, "it was not compiled"))
    found, decoder = logits(folder)
    assert isinstance(decoder.layers[0].gate_up, PackedLinear)
    assert "bfloat16, torch" in decoder.weights or "onnxruntime" in decoder.weights
    assert (found - expected).norm() / expected.norm() < 0.3


def test_the_gpu_kernels_run_in_the_interpreter(tmp_path):
    """A block of them; on a GPU the same test runs them compiled."""
    sizes = SIZES | {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1,
                     "num_hidden_layers": 1}  # fmt: skip
    folder = quantize_folder(save_tiny("llama", tmp_path, tokenizer=False, **sizes))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = {}
    for kernels in ("reference", "triton"):
        config = EngineConfig(device, "float16", kernels=kernels)
        decoder = load_decoder(open_folder(folder), config)
        found[kernels] = decoder.logits(decoder.hidden(IDS[:1, :5])).cpu()
    assert decoder.weights == "4 bits, triton"
    off = (found["triton"] - found["reference"]).norm() / found["reference"].norm()
    assert off < 2e-2


def test_the_gpu_kernels_say_why_they_cannot_run():
    with pytest.raises(ConfigError, match=r"--kernels triton: .*not in float32"):
        choose_kernels("triton", torch.device("cpu"), torch.float32)
