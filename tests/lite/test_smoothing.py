import torch

from mindpress.formats.quantized import QuantSpec
from mindpress.lite.smoothing import balance, per_kv_channel, tie_heads, weight_importance


def test_importance_is_the_mean_share_of_the_groups_largest():
    weight = torch.tensor([[1.0, -2.0, 4.0, 4.0], [3.0, 3.0, 1.0, 0.0]])
    found = weight_importance([weight], QuantSpec(4, 2))
    torch.testing.assert_close(found, torch.tensor([0.75, 1.0, 1.0, 0.5]))


def test_default_smoothing_is_lmdeploys_formula():
    activation = torch.tensor([4.0, 1.0, 16.0])
    importance = torch.tensor([1.0, 0.25, 1.0])
    scales = balance(activation, importance, alpha=0.5)
    raw = torch.tensor([2.0, 2.0, 4.0])
    torch.testing.assert_close(scales, raw / (4.0 * 2.0) ** 0.5)


def test_a_channel_that_is_never_active_keeps_scale_one():
    scales = balance(torch.tensor([0.0, 2.0, 8.0]), torch.ones(3), alpha=0.5)
    assert scales[0] == 1
    torch.testing.assert_close(scales[1] * scales[2], torch.tensor(1.0))


def test_nothing_active_is_left_alone():
    assert balance(torch.zeros(4), torch.ones(4), alpha=0.5).eq(1).all()


def test_query_heads_of_a_group_share_a_scale():
    # 2 kv heads of 2 channels, 3 query heads each
    channels = torch.arange(12.0)
    tied = tie_heads(channels, kv_heads=2, head_dim=2)
    assert tied.view(2, 3, 2)[0].tolist() == [[2.0, 3.0]] * 3
    assert per_kv_channel(tied, 2, 2).tolist() == [2.0, 3.0, 8.0, 9.0]
    assert tie_heads(channels, 2, 2, reduce="max").view(2, 3, 2)[1, 0].tolist() == [10.0, 11.0]
