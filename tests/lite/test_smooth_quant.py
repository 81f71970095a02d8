"""SmoothQuant against its definition, and against plain rounding."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mindpress.calib.stream import BlockStream
from mindpress.errors import NumericError
from mindpress.kernels.matmul_w8a8.weight import INT8
from mindpress.lite import choose_int8 as choosing
from mindpress.lite.alpha import ALPHAS, search_alpha
from mindpress.lite.choose import PLAIN, HeldOut, load_result
from mindpress.lite.choose_int8 import SMOOTHED, choose_int8, int8_disturbance
from mindpress.lite.hidden_states import HiddenStates
from mindpress.lite.rounded_inputs import rounded_inputs
from mindpress.lite.row_sample import ROWS_KEPT, RowSample
from mindpress.lite.smooth_quant import int8_block, search_block
from mindpress.lite.task import BlockTask
from mindpress.lite.walk_int8 import Int8Walk
from mindpress.sources.folder import open_folder
from tests.tiny_models import save_tiny

CPU = torch.device("cpu")


def random(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def layer():
    """Two linears and the rows they read, with a few loud channels; sizes are odd."""
    x = random(37, 21)
    x[:, [3, 11]] *= 40
    return [random(9, 21, seed=1), random(13, 21, seed=2)], x


def on_int8_grid(rows):
    """Row by row, element by element."""
    result = torch.zeros(rows.shape, dtype=torch.float64)
    for i, row in enumerate(rows.double().tolist()):
        scale = max(map(abs, row)) / 127
        result[i] = torch.tensor([round(v / scale) * scale if scale else 0.0 for v in row])
    return result


def error_by_definition(weights, x, scales):
    rounded, off, whole = on_int8_grid(x / scales), 0.0, 0.0
    for weight in weights:
        target = x.double() @ weight.double().T
        off += float((rounded @ on_int8_grid(weight * scales).T - target).square().sum())
        whole += float(target.square().sum())
    return off / whole


def equation_4(weights, x, alpha):
    largest = torch.cat(weights).abs().amax(0)
    return x.abs().amax(0) ** alpha / largest ** (1 - alpha)


def search(weights, x, alphas=ALPHAS):
    largest = torch.cat(weights).abs().amax(0)
    return search_alpha(weights, x, x.abs().amax(0), largest, alphas)


def test_the_search_finds_the_least_error_of_the_definition(layer):
    weights, x = layer
    errors = {alpha: error_by_definition(weights, x, equation_4(weights, x, alpha))
              for alpha in ALPHAS}  # fmt: skip
    plain = error_by_definition(weights, x, torch.ones(21))
    found = search(weights, x)
    assert found.plain_error == pytest.approx(plain, rel=1e-3)
    assert found.error == pytest.approx(min(errors.values()), rel=1e-3)
    assert errors[found.alpha] == pytest.approx(min(errors.values()), rel=1e-3)


def test_scales_are_those_of_equation_4_but_for_a_factor(layer):
    weights, x = layer
    ratio = search(weights, x, (0.6,)).scales / equation_4(weights, x, 0.6)
    torch.testing.assert_close(ratio, ratio[:1].expand(21))


def test_loud_channels_are_smoothed(layer):
    found = search(*layer)
    assert found.error < 0.2 * found.plain_error
    assert set(found.scales.topk(2).indices.tolist()) == {3, 11}


def test_what_is_exact_already_is_left_alone():
    x = torch.randint(-127, 128, (8, 16)).float()
    x[:, 0] = 127
    found = search([x.flip(0)], x)
    assert found.alpha is None
    assert found.scales.eq(1).all()
    assert found.error < 1e-10


def test_dead_channels_keep_scale_one_and_nothing_becomes_nan(layer):
    weights, x = layer
    x[:, 5] = 0
    for weight in weights:
        weight[:, 7] = 0
    found = search(weights, x)
    assert found.alpha is not None
    assert found.scales[[5, 7]].eq(1).all()
    assert found.scales.isfinite().all()
    nothing = search(weights, torch.zeros_like(x))
    assert (nothing.alpha, nothing.error) == (None, 0.0)


@pytest.mark.parametrize("batches", [[5000], [1, 4999], [300] * 16 + [200]])
def test_the_sample_does_not_depend_on_batches(batches):
    x = random(5000, 3)
    whole, parts = RowSample(3, 5000, CPU), RowSample(3, 5000, CPU)
    whole.add(x.view(1, 5000, 3))
    for part in x.split(batches):
        parts.add(part)
    assert whole.rows.shape == (ROWS_KEPT, 3)
    assert torch.equal(whole.rows, parts.rows)
    assert torch.equal(parts.absmax, x.abs().amax(0))
    # A fourth of windows of 4 tokens are their first: neither all of the sample nor none of it.
    first = (x[::4].unsqueeze(1) == parts.rows).all(-1).any(0).float().mean()
    assert 0.2 < first < 0.3


def test_a_short_text_is_kept_whole_and_nan_is_seen():
    sample, x = RowSample(4, 10, CPU), random(10, 4)
    sample.add(x)
    assert torch.equal(sample.rows, x)
    assert sample.finite
    sample.add(torch.tensor([[1.0, torch.nan, 2.0, 3.0]]))
    sample.add(x)
    assert not sample.finite


def test_linears_read_rounded_inputs_while_inside():
    block, x = nn.Sequential(nn.Linear(21, 5), nn.Linear(5, 4)), random(2, 7, 21)
    with torch.no_grad():
        before = block(x)
        expected = block[1](block[0](on_int8_grid(x.view(14, 21)).float())).view(2, 7, 4)
        with rounded_inputs(block, ["0"]):
            torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(block(x), before)


def make_loud(folder):
    """Some channels of norms and values 50 times larger, the weights that read them smaller."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        norm = "layernorm" in name
        if norm or any(part in name for part in ("q_proj", "k_proj", "v_proj", "gate", "up_proj")):
            tensor[..., :3] *= 50 if norm else 0.02
        if "v_proj" in name:
            tensor[[1, 40]] *= 50
        if "o_proj.weight" in name:  # 4 query heads of 32 channels read each of 2 value heads
            tensor.view(128, 2, 4, 32)[:, [0, 1], :, [1, 8]] *= 0.02
    save_file(tensors, file, metadata={"format": "pt"})


class Scene:
    """The first block of a tiny model with grouped queries, and tokens for it."""

    def __init__(self, folder, *, loud):
        save_tiny("llama", folder, dtype=torch.float32, attention_bias=True, num_attention_heads=8)
        if loud:
            make_loud(folder)
        self.stream = BlockStream(open_folder(folder), CPU, torch.float32)
        self.task = BlockTask(
            block=self.stream.runs.block,
            shape=self.stream.source.shape,
            spec=INT8,
            quantized=frozenset(linear.name for linear in self.stream.runs.block.linears),
            norm_offset=0.0,
            stored=torch.float32,
            device=CPU,
        )
        self.hidden = random(9, 24, 128) * 0.3

    def walk(self):
        return Int8Walk(self.task, HiddenStates(Path(), self.hidden.clone(), None), 3)

    def watched(self, block):
        walk = self.walk()
        held = HeldOut(self.hidden[8:], walk._outputs(block, self.hidden[8:]))
        return walk._sample(block), held


@pytest.fixture(params=[False, True], ids=["quiet", "loud"])
def scene(request, tmp_path):
    return Scene(tmp_path / "model", loud=request.param)


def test_a_smoothed_block_computes_the_same(scene, request):
    with scene.stream.block(0) as block:
        seen, held = scene.watched(block)
        weights = scene.stream.weights(0)
        found = search_block(weights, seen, scene.task)
        scales = {name: one.scales for name, one in found.items()}
        changed = [name for name, one in found.items() if one.alpha]
        assert len(changed) == (4 if "loud" in request.node.name else 3)
        exact = replace(scene.task, quantized=frozenset())
        load_result(block.module, int8_block(weights, exact, scales, SMOOTHED))
        torch.testing.assert_close(block.run(held.inputs), held.outputs, rtol=1e-4, atol=1e-4)


def test_the_better_of_plain_and_smoothed_is_kept(scene, request):
    with scene.stream.block(0) as block:
        seen, held = scene.watched(block)
        choice = choose_int8(block, scene.task, seen, held)
        tried = choice.candidates
        assert set(tried) == {PLAIN, SMOOTHED}
        assert choice.error == min(tried.values()) <= choice.plain_error == tried[PLAIN]
        assert choice.error == pytest.approx(int8_disturbance(block, choice.result, held))
        assert set(choice.sites) == {site.name for site in scene.task.sites()}
        if "loud" in request.node.name:
            assert choice.result.method == SMOOTHED
            assert choice.error < 0.1 * choice.plain_error


def test_smoothing_that_harms_is_not_used(scene, monkeypatch):
    def harm(*given):
        found = search_block(*given)
        return {name: replace(one, scales=one.scales.roll(1) ** 3, alpha=0.5)
                for name, one in found.items() if name.startswith("mlp in")}  # fmt: skip

    with scene.stream.block(0) as block:
        seen, held = scene.watched(block)
        monkeypatch.setattr(choosing, "search_block", harm)
        choice = choose_int8(block, scene.task, seen, held)
        assert choice.candidates[SMOOTHED] > choice.candidates[PLAIN]
        assert choice.result.method == PLAIN
        assert choice.error == choice.plain_error


def test_candidates_are_judged_with_rounded_activations(tmp_path):
    scene = Scene(tmp_path / "model", loud=True)
    with scene.stream.block(0) as block:
        _, held = scene.watched(block)
        plain = int8_block(scene.stream.weights(0), scene.task, {}, PLAIN)
        load_result(block.module, plain)
        weights_alone = (block.run(held.inputs) - held.outputs).square().sum()
        added = (held.outputs - held.inputs).square().sum()
        assert int8_disturbance(block, plain, held) > 5 * weights_alone / added


def test_rows_that_smoothing_made_small_keep_their_codes(scene):
    site = next(site for site in scene.task.sites() if site.producer == "up")
    scales = {site.name: torch.full((256,), 1e4)}
    codes = int8_block(scene.stream.weights(0), scene.task, scales, SMOOTHED).codes
    for name, weight in codes.items():
        signed = weight.codes.int() - 128
        assert signed.abs().amax(1).eq(127).all(), name
        assert weight.scales.dtype == torch.float32
        assert weight.spec == INT8


def test_a_walk_passes_on_what_the_original_computes(scene):
    walk = scene.walk()
    with scene.stream.block(0) as block:
        expected = block.run(scene.hidden)
        choice = walk.quantize(block)
        assert set(choice.result.codes) == scene.task.quantized
    torch.testing.assert_close(walk.states.original, expected)


def test_a_walk_refuses_what_overflows(scene):
    walk = scene.walk()
    walk.states.original[0, 3, 5] = torch.inf
    with scene.stream.block(0) as block, pytest.raises(NumericError, match="attention inputs"):
        walk.quantize(block)
