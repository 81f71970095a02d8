import torch
from torch import nn

from mindpress.calib.capture import capture_inputs
from mindpress.calib.hidden import hidden_states
from mindpress.calib.statistics import InputStatistics


def test_batches_add_up_to_the_whole():
    x = torch.randn(6, 10, 16, generator=torch.Generator().manual_seed(0))
    seen = InputStatistics(16, torch.device("cpu"))
    for batch in x.split(4):
        seen.add(batch)
    rows = x.flatten(0, 1)
    assert seen.tokens == 60
    torch.testing.assert_close(seen.absmax, rows.abs().amax(0))
    torch.testing.assert_close(seen.absmean, rows.abs().mean(0))
    torch.testing.assert_close(seen.hessian, rows.t() @ rows)


def test_a_nan_activation_is_noticed():
    seen = InputStatistics(4, torch.device("cpu"))
    seen.add(torch.tensor([[1.0, float("nan"), 0.0, 0.0]]))
    assert not seen.finite


def test_inputs_of_named_linears_are_seen_only_while_inside():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    seen = InputStatistics(8, torch.device("cpu"))
    with capture_inputs(model, {"2": seen}):
        model(torch.randn(3, 4))
    model(torch.randn(5, 4))
    assert seen.tokens == 3


def test_hidden_states_that_do_not_fit_go_to_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("mindpress.calib.hidden.SHARE_OF_MEMORY", 0.0)
    spill = tmp_path / "hidden.bin"
    hidden = hidden_states((2, 3, 8), torch.bfloat16, spill)
    hidden.fill_(2.0)
    assert spill.stat().st_size == 2 * 3 * 8 * 2
    assert hidden.sum() == 96
