"""A model whose folder says that activations are rounded: int8 weights, int8 activations."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_coded import config_of
from tiny_models import edit_config, save_tiny
from transformers import AutoModelForCausalLM

from mindpress.engine import self_check
from mindpress.engine.config import EngineConfig, GenerationConfig
from mindpress.engine.linear import FloatLinear, Int8Linear
from mindpress.engine.loader import Share, load_decoder
from mindpress.engine.pipeline import pipeline
from mindpress.errors import ConfigError, InputError, NumericError, ResourceError
from mindpress.events import Note, ignore
from mindpress.formats.activations import read_activations
from mindpress.formats.compressed_tensors import CompressedLayout
from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from mindpress.kernels.matmul_w8a8.products import CpuInt8Product, ReferenceInt8Product
from mindpress.kernels.matmul_w8a8.weight import INT8, Int8Weight, is_int8, quantize_weight
from mindpress.sources.folder import open_folder

IDS = torch.randint(0, 4096, (2, 30), generator=torch.Generator().manual_seed(1))
LAYOUT = CompressedLayout(INT8, "int-quantized")
PER_TOKEN = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
# Inputs that are no multiple of 4 and outputs that are none of 16, of everything.
ODD = {"hidden_size": 102, "intermediate_size": 250, "head_dim": 34, "num_attention_heads": 3,
       "num_key_value_heads": 1}  # fmt: skip
BIASED = {"attention_bias": True, "mlp_bias": True}
pytestmark = pytest.mark.usefixtures("native")


def config(activations=PER_TOKEN, left="none"):
    made = config_of(LAYOUT, left)
    made["config_groups"]["group_0"]["input_activations"] = activations
    return made


def round_folder(folder, *, lowest=False, left="none", activations=PER_TOKEN):
    """The linears as int8 codes; with `lowest` on llm-compressor's grid, which ends at -128."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name in [n for n, t in tensors.items() if ".layers." in n and t.dim() == 2]:
        if left in name:
            continue
        rounded = quantize_weight(tensors.pop(name))
        if lowest:
            first = torch.arange(rounded.outputs)[::2]
            rounded.codes[first, first % rounded.inputs] = -128
        parts = LAYOUT.pack(rounded.quantized())
        tensors |= {f"{name.removesuffix('.weight')}.{part}": t for part, t in parts.items()}
    save_file(tensors, file, metadata={"format": "pt"})
    edit_config(folder, quantization_config=config(activations, left))
    return folder


def opened(folder, listener=ignore, **changes):
    settings = {"device": "cpu"} | changes
    return load_decoder(open_folder(folder), EngineConfig(**settings), listener)


def logits(decoder):
    return decoder.logits(decoder.hidden(IDS))


def off(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(
    scope="module",
    params=[("llama", ODD | BIASED), ("qwen2", {}), ("phi3", {}), ("gemma2", {})],
    ids=["odd sizes and biases", "qwen2", "fused", "gemma2"],
)
def folders(request, tmp_path_factory):
    """In floats, and rounded."""
    place, (family, sizes) = tmp_path_factory.mktemp("models"), request.param
    for name in ("floats", "int8"):
        save_tiny(family, place / name, dtype=torch.float32, tokenizer=False, **sizes)
    return place / "floats", round_folder(place / "int8")


def test_logits_are_near_those_of_the_original_and_exactly_the_references(folders):
    floats, int8 = folders
    original, found, reference = opened(floats), opened(int8), opened(int8, kernels="reference")
    assert all(isinstance(linear, Int8Linear) for linear in found.linears)
    assert isinstance(found.layers[0].query_key_value.weight, CpuInt8Product)
    assert isinstance(reference.layers[0].query_key_value.weight, ReferenceInt8Product)
    # A random model of two layers makes much of a rounding.
    assert 1e-3 < off(logits(found), logits(original)) < 0.06
    assert torch.equal(logits(found), logits(reference))
    assert found.weights == "8 bits, int8 activations"
    assert reference.weights == "8 bits, int8 activations, reference"


@torch.no_grad()
def test_logits_are_those_of_the_definition(folders):
    """The model of transformers, every linear of which reads what int8 codes stand for."""
    floats, int8 = folders
    model = AutoModelForCausalLM.from_pretrained(floats, dtype=torch.float32).eval()

    def rounded(values):
        step = values.abs().amax(-1, keepdim=True) / 127
        return (values / step).round() * step

    linears = [m for n, m in model.named_modules() if ".layers." in n and hasattr(m, "in_features")]
    for linear in linears:
        linear.weight.copy_(rounded(linear.weight))
        linear.register_forward_pre_hook(lambda _, inputs: rounded(inputs[0]))
    # Where floats differ by a hair, some codes do by one.
    assert off(logits(opened(int8)), model(IDS).logits) < 2e-3


def test_codes_of_minus_128_are_multiplied(tmp_path):
    save_tiny("llama", tmp_path, dtype=torch.float32, tokenizer=False, **(ODD | BIASED))
    round_folder(tmp_path, lowest=True)
    found, reference = opened(tmp_path), opened(tmp_path, kernels="reference")
    product, x = found.layers[0].gate_up.weight, torch.randn(3, 5, 102)
    assert product.lowest is not None
    assert found.weights == "8 bits, int8 activations"
    expected = reference.layers[0].gate_up.weight(x)
    torch.testing.assert_close(product(x), expected, rtol=1e-5, atol=1e-5)
    assert off(logits(found), logits(reference)) < 2e-3
    clamped = CpuInt8Product(product.weight)
    assert off(clamped(x), expected) > 1e-4


def test_without_rounded_activations_weights_alone_are_int8(tmp_path):
    save_tiny("llama", tmp_path, dtype=torch.float32, tokenizer=False)
    round_folder(tmp_path, activations=None)
    decoder = opened(tmp_path)
    assert isinstance(decoder.layers[0].gate_up, FloatLinear)
    assert decoder.weights == "float32"
    edit_config(tmp_path, quantization_config=config())
    assert 1e-3 < off(logits(opened(tmp_path)), logits(decoder)) < 0.06


def test_linears_left_in_floats_stay_so_and_the_listener_hears_it(tmp_path):
    save_tiny("llama", tmp_path, dtype=torch.float32, tokenizer=False)
    round_folder(tmp_path, left="k_proj")
    events = []
    decoder = opened(tmp_path, events.append)
    assert isinstance(decoder.layers[0].query_key_value, FloatLinear)
    assert isinstance(decoder.layers[0].down, Int8Linear)
    assert decoder.weights == "8 bits, int8 activations, float32"
    notes = [event.text for event in events if isinstance(event, Note)]
    assert "6 of 8 linears read activations rounded to int8" in notes[0]
    assert notes[1] == (
        "2 of 8 linears are floats in memory: some of their weights are floats in the model"
    )


def test_answers_are_those_of_the_reference(tmp_path):
    folder = round_folder(save_tiny("llama", tmp_path, dtype=torch.float32))
    texts = []
    for kernels in ("auto", "reference"):
        with pipeline(folder, EngineConfig("cpu", kernels=kernels)) as pipe:
            greedy = GenerationConfig(max_new_tokens=6, temperature=0, ignore_eos=True)
            texts.append([answer.token_ids for answer in pipe(["one two", "three"], greedy)])
    assert texts[0] == texts[1]
    assert len(texts[0][0]) == 6


def test_a_model_that_fits_in_int8_only_is_not_refused(tmp_path, monkeypatch):
    save_tiny("llama", tmp_path, dtype=torch.float32, tokenizer=False)
    round_folder(tmp_path)
    need = opened(tmp_path).nbytes
    monkeypatch.setattr("mindpress.engine.loader.available_bytes", lambda: need + 2**14)
    opened(tmp_path)
    edit_config(tmp_path, quantization_config=config(None))
    with pytest.raises(ResourceError, match="of memory are free"):
        opened(tmp_path)


def test_a_row_with_one_scale_is_not_shared_out(tmp_path):
    save_tiny("llama", tmp_path, tokenizer=False)
    source = open_folder(round_folder(tmp_path))
    with pytest.raises(ConfigError, match="tp 2: 1 groups of `down` cannot be shared out"):
        load_decoder(source, EngineConfig("cpu"), share=Share(0, 2, lambda x: x))


GPU = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1, "head_dim": 64,
       "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 64}  # fmt: skip
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_the_gpu_kernels_run_in_the_interpreter(tmp_path, monkeypatch):
    save_tiny("qwen2", tmp_path, tokenizer=False, **GPU)
    decoder = opened(round_folder(tmp_path), device=DEVICE, dtype="float16", kernels="triton")
    assert decoder.weights == "8 bits, int8 activations, triton"
    layer = decoder.layers[0]
    x = torch.randn(2, 3, 128, dtype=torch.float16, device=DEVICE)
    expected = ReferenceInt8Product(layer.query_key_value.weight.weight)(x)
    assert torch.equal(layer.query_key_value(x), expected + layer.query_key_value.bias)
    monkeypatch.setattr(self_check, "ROWS", (1, 24))
    self_check.check_products(decoder)

    def other(weight):
        return ReferenceInt8Product(replace(weight, scales=1.1 * weight.scales))

    monkeypatch.setattr(self_check, "ReferenceInt8Product", other)
    with pytest.raises(NumericError, match=r"wrong on this GPU: the product of 1 rows.*8 bits"):
        self_check.check_products(decoder)


def test_what_the_gpu_kernel_cannot_multiply_the_reference_does(tmp_path):
    save_tiny("llama", tmp_path, tokenizer=False, **(GPU | {"intermediate_size": 72}))
    decoder = opened(round_folder(tmp_path), device=DEVICE, dtype="float16", kernels="triton")
    assert isinstance(decoder.layers[0].down.weight, ReferenceInt8Product)
    kept = "8 bits, int8 activations"
    assert decoder.weights == f"{kept}, reference, {kept}, triton"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "per token"),
        ({"type": "float"}, None),
        ({"dynamic": False}, None),
        ({"strategy": "tensor"}, None),
        ({"symmetric": False}, None),
        ({"num_bits": 4}, None),
    ],
)
def test_only_what_the_kernels_round_counts_as_rounded(changes, expected):
    assert read_activations(config(PER_TOKEN | changes)) == expected


def test_modules_that_differ_are_refused_and_other_formats_are_not_asked():
    made = config()
    made["config_groups"]["group_1"] = config(None)["config_groups"]["group_0"]
    with pytest.raises(InputError, match="activations of some modules"):
        read_activations(made)
    assert read_activations({"quant_method": "awq", "bits": 4}) is None
    assert read_activations({"quant_method": "compressed-tensors"}) is None


def test_int8_codes_become_the_common_form_and_back():
    weight = quantize_weight(torch.randn(5, 7))
    common = weight.quantized()
    assert isinstance(common, QuantizedWeight)
    torch.testing.assert_close(common.dequantize(), weight.dequantize())
    back = Int8Weight.of(common)
    assert torch.equal(back.codes, weight.codes)
    assert torch.equal(back.scales, weight.scales)
    kinds = [(8, -1, True), (8, 7, True), (8, 1, True), (8, -1, False), (4, -1, True)]
    assert [is_int8(QuantSpec(*kind), 7) for kind in kinds] == [True, True, False, False, False]
