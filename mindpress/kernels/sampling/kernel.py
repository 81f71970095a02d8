"""`sample` in Triton: one program a sequence, which reads its logits as often as it takes.

Nothing is sorted. Which logit is the last one kept is found by bisection between logits: each
pass over the row counts, or weighs, those from some value on, and finds the logits next to it.
"""

from typing import no_type_check

import triton
import triton.language as tl

INFINITY = tl.constexpr(float("inf"))


@triton.jit
@no_type_check
def _chunk(logits_ptr, first, vocab, BLOCK: tl.constexpr):
    """Logits from `first` on; behind the last one there is NaN, which is not >= anything."""
    token = first + tl.arange(0, BLOCK)
    return tl.load(logits_ptr + token, mask=token < vocab, other=float("nan")).to(tl.float32)


@triton.jit
@no_type_check
def _extremes(logits_ptr, vocab, BLOCK: tl.constexpr):
    """The least and the largest logit, the first token that has it, and whether all are finite."""
    least = tl.full((BLOCK,), INFINITY, tl.float32)
    largest = tl.full((BLOCK,), -INFINITY, tl.float32)
    token = tl.zeros((BLOCK,), tl.int32)
    wrong = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, vocab, BLOCK):
        place = first + tl.arange(0, BLOCK)
        logits = _chunk(logits_ptr, first, vocab, BLOCK)
        token = tl.where(logits > largest, place, token)
        largest = tl.where(logits > largest, logits, largest)
        least = tl.where(logits < least, logits, least)
        wrong |= ((place < vocab) & ~(tl.abs(logits) < INFINITY)).to(tl.int32)
    best = tl.max(largest, axis=0)
    candidates = tl.where(largest == best, token, 2147483647)
    return tl.min(least, axis=0), best, tl.min(candidates, axis=0), tl.max(wrong, axis=0) == 0


@triton.jit
@no_type_check
def _pass(logits_ptr, vocab, middle, best, coldness, COUNT: tl.constexpr, BLOCK: tl.constexpr):  # noqa: PLR0913
    """Number or weight of the logits from `middle` on, the least of them, the largest below."""
    sums = tl.zeros((BLOCK,), tl.float32)
    above = tl.full((BLOCK,), INFINITY, tl.float32)
    below = tl.full((BLOCK,), -INFINITY, tl.float32)
    for first in range(0, vocab, BLOCK):
        logits = _chunk(logits_ptr, first, vocab, BLOCK)
        inside = logits >= middle
        if COUNT:
            sums += tl.where(inside, 1.0, 0.0)
        else:
            sums += tl.where(inside, tl.exp((logits - best) * coldness), 0.0)
        above = tl.where(inside & (logits < above), logits, above)
        below = tl.where((logits < middle) & (logits > below), logits, below)
    return tl.sum(sums, axis=0), tl.min(above, axis=0), tl.max(below, axis=0)


@triton.jit
@no_type_check
def _bisect(logits_ptr, vocab, least, best, coldness, wanted, COUNT: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip  # noqa: E501, PLR0913
    """The largest logit from which on there are `wanted`; those from `least` on are enough."""
    most = best
    while least < most:
        middle = 0.5 * least + 0.5 * most
        middle = tl.where((middle > least) & (middle <= most), middle, most)
        found, above, below = _pass(logits_ptr, vocab, middle, best, coldness, COUNT, BLOCK)
        if found >= wanted:
            least = above
        else:
            most = below
    return least


@triton.jit
@no_type_check
def _draw(logits_ptr, vocab, last, best, coldness, bound, BLOCK: tl.constexpr):  # noqa: PLR0913
    """The first token from which on the weights of the logits >= `last` exceed `bound`.

    The last token kept, where rounding leaves none.
    """
    before = tl.full((), 0.0, tl.float32)
    token = tl.full((), -1, tl.int32)
    first = tl.full((), 0, tl.int32)
    going = first < vocab
    while going:
        place = first + tl.arange(0, BLOCK)
        logits = _chunk(logits_ptr, first, vocab, BLOCK)
        kept = logits >= last
        weights = tl.where(kept, tl.exp((logits - best) * coldness), 0.0)
        reached = kept & (before + tl.cumsum(weights, axis=0) > bound)
        hit = tl.min(tl.where(reached, place, 2147483647), axis=0)
        token = tl.maximum(token, tl.max(tl.where(kept, place, -1), axis=0))
        before += tl.sum(weights, axis=0)
        first += BLOCK
        going = (hit == 2147483647) & (first < vocab)
        token = tl.where(hit == 2147483647, token, hit)
    return token


@triton.jit
@no_type_check
def sample_kernel(  # noqa: PLR0913
    logits_ptr,
    temperature_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    uniform_ptr,
    tokens_ptr,
    vocab,
    row_stride,
    COLDEST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sequence = tl.program_id(0)
    logits_ptr += sequence.to(tl.int64) * row_stride
    least, best, token, finite = _extremes(logits_ptr, vocab, BLOCK)
    temperature = tl.load(temperature_ptr + sequence)
    if finite & (temperature > 0):
        coldness = 1.0 / tl.maximum(temperature, COLDEST)
        top_k = tl.load(top_k_ptr + sequence)
        if (top_k > 0) & (top_k < vocab):
            wanted = top_k.to(tl.float32)
            least = _bisect(logits_ptr, vocab, least, best, coldness, wanted, True, BLOCK)
        top_p = tl.load(top_p_ptr + sequence)
        if top_p < 1.0:
            mass, _, _ = _pass(logits_ptr, vocab, least, best, coldness, False, BLOCK)
            least = _bisect(logits_ptr, vocab, least, best, coldness, top_p * mass, False, BLOCK)
        min_p = tl.minimum(tl.load(min_p_ptr + sequence), 1.0)
        if min_p > 0:
            least = tl.maximum(least, best + tl.log(min_p) * tl.maximum(temperature, COLDEST))
        mass, _, _ = _pass(logits_ptr, vocab, least, best, coldness, False, BLOCK)
        bound = tl.load(uniform_ptr + sequence) * mass
        token = _draw(logits_ptr, vocab, least, best, coldness, bound, BLOCK)
    tl.store(tokens_ptr + sequence, tl.where(finite, token, -1).to(tl.int64))
