"""`--target-bpw`: the most sensitive linears get more bits, in every format that can say so."""

import json
import re

import pytest
import torch

from mindpress.calib.stream import BlockStream
from mindpress.convert.convert import convert_model
from mindpress.convert.settings import Conversion
from mindpress.engine.config import EngineConfig
from mindpress.engine.loader import load_decoder
from mindpress.engine.perplexity import score_windows
from mindpress.errors import ConfigError, InputError
from mindpress.events import Advanced
from mindpress.formats.quantized import QuantSpec
from mindpress.lite.mixture import assign
from mindpress.lite.plan import plan_quantization
from mindpress.lite.quantize import quantize_model
from mindpress.lite.recipe import Recipe
from mindpress.lite.rounding import rounded
from mindpress.lite.sensitivity import MEASURED_TOKENS, measure_sensitivity
from mindpress.lite.task import BlockTask
from mindpress.sources.folder import open_folder
from tests.damaged_weights import damage
from tests.short_runs import FEW
from tests.tiny_models import save_tiny

CPU = torch.device("cpu")


def recipe(model, **changes):
    settings = {"group_size": 32, "rounding": "nearest", "calibration": FEW} | changes
    return Recipe(str(model), **settings)


def quantization_of(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def bits_of(folder):
    """Bits of every linear by its full name, as a reader finds them; 16 for floats."""
    source = open_folder(folder)
    block, found = source.architecture.block, {}
    for layer in range(source.shape.layers):
        for linear in block.linears:
            spec = source.spec_of(layer, linear.roles[0])
            found[f"{source.architecture.layer(layer)}.{linear.name}"] = spec.bits if spec else 16
    return found


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """Layer 1 matters little: what it adds is small."""
    folder = save_tiny("llama", tmp_path_factory.mktemp("mixed") / "llama", num_hidden_layers=2)
    layer = "model.layers.1"
    small = {
        f"{layer}.{name}.weight": lambda t: t / 50 for name in ("self_attn.o_proj", "mlp.down_proj")
    }
    damage(folder, **small)
    return folder


def test_bits_go_where_most_is_lost_for_every_byte_and_no_further_than_the_budget():
    a, b, c, d = ((layer, "mlp output") for layer in range(4))
    sizes = {place: {4: 10, 8: 20, 16: 40} for place in (a, b, c)} | {d: {4: 100, 8: 200, 16: 400}}
    losses = {
        a: {4: 8.0, 8: 1.0, 16: 0.0}, b: {4: 3.0, 8: 0.1, 16: 0.0},
        c: {4: 5.0, 8: 4.9, 16: 0.0}, d: {4: 9.0, 8: 0.0, 16: 0.0},
    }  # fmt: skip
    least = {a: 4, b: 4, c: 4, d: 4}
    assert assign(sizes, losses, 130) == least
    assert assign(sizes, losses, 139) == least
    assert assign(sizes, losses, 140) == least | {a: 8}
    assert assign(sizes, losses, 150) == least | {a: 8, b: 8}
    assert assign(sizes, losses, 180) == least | {a: 8, b: 8, c: 16}
    assert assign(sizes, losses, 520) == {a: 16, b: 16, c: 16, d: 8}


def test_the_loss_of_a_site_is_the_divergence_of_the_model_with_that_site_rounded(llama, tmp_path):
    """Against the runtime, on the same tokens."""
    source = open_folder(llama)
    tokens = torch.randint(
        0, source.shape.vocab, (3, 256), generator=torch.Generator().manual_seed(0)
    )
    spec = QuantSpec(3, 32)
    task = BlockTask(
        block=source.architecture.block, shape=source.shape, spec=spec,
        quantized=frozenset(x.name for x in source.architecture.block.linears),
        norm_offset=0.0, stored=torch.float16, device=CPU,
    )  # fmt: skip
    stream = BlockStream(source, CPU, torch.float32)
    losses = measure_sensitivity(stream, task, tokens, (3, 8, 16))
    original = load_decoder(source, EngineConfig(device="cpu"))
    for place, names in {
        (0, "mlp inputs"): ("mlp.gate_proj", "mlp.up_proj"), (1, "mlp output"): ("mlp.down_proj",),
    }.items():  # fmt: skip
        changed = save_tiny("llama", tmp_path / names[0], num_hidden_layers=2)
        for file in llama.iterdir():
            (changed / file.name).write_bytes(file.read_bytes())
        prefix = f"model.layers.{place[0]}"
        damage(
            changed,
            **{f"{prefix}.{n}.weight": lambda t: rounded(t, spec).to(t.dtype) for n in names},
        )
        decoder = load_decoder(open_folder(changed), EngineConfig(device="cpu"))
        assert MEASURED_TOKENS == 512
        score = score_windows(decoder, tokens[:2], original)
        found = losses[place]
        # The runtime's does not count the last token of a sample, and its weights are in 16 bits.
        assert found[3] == pytest.approx(score.divergence, rel=0.05)
        assert 0 < found[8] < found[3] / 100
        assert found[16] == 0


@pytest.mark.parametrize(
    ("changes", "widths"),
    [
        ({"target_bpw": 6.5}, {4, 8, 16}), ({"target_bpw": 7.0, "format": "awq"}, {4, 16}),
        ({"target_bpw": 6.5, "algorithm": "gptq", "symmetric": True}, {4, 8, 16}),
        ({"target_bpw": 4.5, "bits": 3}, {3, 4, 8, 16}),
        ({"target_bpw": 7.0, "rounding": "compensated"}, {4, 8, 16}),
    ], ids=str,
)  # fmt: skip
def test_the_folder_has_the_bits_of_the_report_and_no_more_than_asked_for(
    llama, tmp_path, changes, widths
):
    report = quantize_model(recipe(llama, **changes), tmp_path / "out")
    assert report.mixture is not None
    assert report.linear_bits_per_weight <= changes["target_bpw"]
    found = bits_of(tmp_path / "out")
    assert len(set(found.values())) > 1
    assert set(found.values()) <= widths
    source = open_folder(tmp_path / "out")
    stored = sum(
        source.checkpoint.tensors[name].nbytes
        for name in source.checkpoint.tensors
        if re.search(r"proj\.", name)
    )
    weights = 2 * plan_quantization(recipe(llama)).sizes.weights
    told = report.linear_bits_per_weight
    assert 8 * stored / weights == pytest.approx(told, rel=0.01)
    by_site = report.mixture.widths
    for name, bits in found.items():
        layer = int(name.split(".")[2])
        site = {"q": "attention inputs", "k": "attention inputs", "v": "attention inputs",
                "o": "attention output", "gate": "mlp inputs", "up": "mlp inputs",
                "down": "mlp output"}[name.rpartition(".")[2].removesuffix("_proj")]  # fmt: skip
        assert by_site[layer][site] == bits
    # Layer 1 matters little, and so nothing is spent on it before layer 0 has what it needs.
    assert sum(by_site[0].values()) > sum(by_site[1].values())
    load_decoder(source, EngineConfig(device="cpu"))


def test_more_bits_lose_less(llama, tmp_path):
    tokens = torch.randint(0, 384, (4, 64), generator=torch.Generator().manual_seed(1))
    original = load_decoder(open_folder(llama), EngineConfig(device="cpu"))
    lost = []
    for target in (None, 5.5, 8.0):
        asked = recipe(llama, target_bpw=target, format="compressed-tensors")
        folder = quantize_model(asked, tmp_path / str(target)).target
        decoder = load_decoder(open_folder(folder), EngineConfig(device="cpu"))
        lost.append(score_windows(decoder, tokens, original).divergence)
    assert lost[0] > 1.2 * lost[1] > 1.2 * 1.2 * lost[2]


@pytest.mark.parametrize(
    ("family", "fused"),
    [
        ("llama", {"attention inputs": "self_attn.qkv_proj", "mlp inputs": "mlp.gate_up_proj"}),
        (
            "internlm2",
            {"attention inputs": "attention.wqkv", "mlp inputs": "feed_forward.gate_up_proj"},
        ),
    ],
)
def test_rules_of_gptq_reach_linears_that_a_reader_fuses(tmp_path, family, fused):
    model = save_tiny(family, tmp_path / "model", num_hidden_layers=2)
    asked = recipe(model, algorithm="gptq", symmetric=True, target_bpw=9.5)
    report = quantize_model(asked, tmp_path / "out")
    rules = quantization_of(tmp_path / "out")["dynamic"]
    for layer, widths in enumerate(report.mixture.widths):
        for site, name in fused.items():
            whole = f"model.layers.{layer}.{name}"
            hits = [change for rule, change in rules.items() if re.match(rule[2:], whole)]
            assert [hit.get("bits", 16) for hit in hits] == [b for b in [widths[site]] if b != 4]


def test_every_linear_is_named_where_there_are_several_schemes(llama, tmp_path):
    """vLLM takes the scheme of the class before it looks into fused linears."""
    quantize_model(recipe(llama, target_bpw=6.5), tmp_path / "out")
    config = quantization_of(tmp_path / "out")
    named = [name for group in config["config_groups"].values() for name in group["targets"]]
    assert len(named) == len(set(named))
    assert "Linear" not in named
    left = set(config["ignore"]) - {"lm_head"}
    assert {*named, *left} == set(bits_of(tmp_path / "out"))


def test_an_interrupted_run_keeps_the_choice(llama, tmp_path):
    def stop(event):
        if isinstance(event, Advanced) and event.figures and event.done == 1:
            raise KeyboardInterrupt

    begun = []
    wanted = recipe(llama, target_bpw=6.5)
    quantize_model(wanted, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        quantize_model(wanted, tmp_path / "cut", listener=stop)
    quantize_model(wanted, tmp_path / "cut", listener=begun.append)
    assert not any("sensitivity" in str(getattr(event, "what", "")) for event in begun)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_workspace_cannot_hold_several_widths(llama, tmp_path):
    quantize_model(recipe(llama, group_size=64, target_bpw=6.5), tmp_path / "out")
    with pytest.raises(InputError, match="linears have different widths") as caught:
        convert_model(Conversion(str(tmp_path / "out"), tmp_path / "ws"))
    assert "--target-bpw" in str(caught.value.hint)


@pytest.mark.parametrize("target", [4.1, 16.0, -1.0, float("nan")])
def test_a_target_out_of_reach_says_what_the_range_is(llama, target):
    with pytest.raises(ConfigError, match=r"--target-bpw .*: linears take 4\.631 bits") as caught:
        plan_quantization(recipe(llama, target_bpw=target))
    assert "from 4.64 to below 16" in str(caught.value.hint)


def test_a_part_that_cannot_be_quantized_counts_as_floats(tmp_path):
    """Its bytes are in the budget, and it is in the choice."""
    model = save_tiny("llama", tmp_path / "model", intermediate_size=144, num_hidden_layers=2)
    asked = recipe(model, target_bpw=9.0)
    report = quantize_model(asked, tmp_path / "out")
    assert report.mixture is not None
    assert {layer["mlp output"] for layer in report.mixture.widths} == {16}
    assert {4, 8} & {layer["mlp inputs"] for layer in report.mixture.widths}
    assert report.linear_bits_per_weight <= 9.0
    source = open_folder(tmp_path / "out")
    stored = sum(info.nbytes for info in source.checkpoint.tensors.values())
    assert report.bytes_after == stored


def test_a_width_whose_words_a_part_does_not_fill_is_not_chosen(tmp_path):
    """144 columns of 3 bits are 13.5 words."""
    model = save_tiny("llama", tmp_path / "model", intermediate_size=144, num_hidden_layers=1)
    asked = recipe(model, algorithm="gptq", bits=2, group_size=16, target_bpw=5.0)
    quantize_model(asked, tmp_path / "out")
    found = bits_of(tmp_path / "out")
    assert 3 not in {found[f"model.layers.0.mlp.{n}_proj"] for n in ("gate", "up", "down")}
