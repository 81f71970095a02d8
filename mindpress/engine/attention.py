"""Causal attention with grouped heads, a sliding window and a soft cap."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

Heads = Float[Tensor, "batch heads length channels"]
KeyHeads = Float[Tensor, "batch kv_heads positions channels"]


@dataclass(frozen=True, slots=True)
class View:
    """Which keys the new tokens see: those of the `past` tokens and their own, `window` at most.

    That is from position `start`, through `mask` where there is one. `causal` says that the
    triangle of new tokens is the mask.
    """

    past: int
    window: int | None
    start: int
    mask: Bool[Tensor, "length positions"] | None
    causal: bool


def view_of(past: int, length: int, window: int | None, device: torch.device) -> View:
    """What `length` tokens after `past` others see: at most the `window` tokens up to their own."""
    total = past + length
    start = 0 if window is None else max(0, past + 1 - window)
    if length == 1:
        return View(past, window, start, None, causal=False)
    if past == 0 and (window is None or window >= length):
        return View(past, window, 0, None, causal=True)
    queries = torch.arange(past, total, device=device).unsqueeze(1)
    keys = torch.arange(start, total, device=device).unsqueeze(0)
    mask = keys <= queries
    if window is not None:
        mask &= keys > queries - window
    return View(past, window, start, mask, causal=False)


def attend(
    query: Heads, keys: KeyHeads, values: KeyHeads, view: View, *, scale: float, cap: float | None
) -> Heads:
    """softmax(scale * q k^T) v over the keys that `view` shows; each kv head serves its group.

    With `cap` c the scores become c * tanh(scores / c) (Gemma Team 2024, "Gemma 2", section 2).
    """
    if view.start:
        keys, values = keys[:, :, view.start :], values[:, :, view.start :]
    if cap is not None:
        return _attend_capped(query * scale, keys, values, view, cap)
    return functional.scaled_dot_product_attention(
        query,
        keys,
        values,
        attn_mask=view.mask,
        is_causal=view.causal,
        scale=scale,
        enable_gqa=query.shape[1] != keys.shape[1],
    )


def _attend_capped(query: Heads, keys: KeyHeads, values: KeyHeads, view: View, cap: float) -> Heads:
    """Peak memory: two float32 tensors of [batch, heads, length, positions]."""
    batch, heads, length, channels = query.shape
    kv_heads, positions = keys.shape[1:3]
    # The heads of a group are rows of one product, so that no key is copied.
    grouped = query.reshape(batch, kv_heads, heads // kv_heads * length, channels)
    scores = torch.tanh(grouped @ keys.transpose(2, 3) / cap) * cap
    scores = scores.view(batch, heads, length, positions)
    mask = view.mask
    if view.causal:
        mask = torch.ones(length, positions, dtype=torch.bool, device=query.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    mixed = weights.view(batch, kv_heads, -1, positions) @ values
    return mixed.view(batch, heads, length, channels)
