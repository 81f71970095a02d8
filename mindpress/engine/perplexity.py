"""How well a model predicts a text, and how far its predictions are from another model's."""

import math
import time
from dataclasses import asdict, dataclass, fields

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from mindpress.calib.batches import Batches
from mindpress.engine.decoder import Decoder
from mindpress.engine.kept import Kept
from mindpress.errors import NumericError
from mindpress.events import Advanced, Finished, Listener, Note, Started, ignore
from mindpress.models.shape import ModelShape

# Windows of one forward hold about this many tokens.
TOKENS_AT_ONCE = 2048
# Logits exist for about this many elements (positions * vocabulary) at a time, but for no fewer
# positions than make the head's matrix product worth its reading. They stay small enough for the
# allocator to use the same pages again.
LOGITS_AT_ONCE = 2**21
FEWEST_POSITIONS = 64
# Of each of these elements, with float64 copies and those of another model where it is compared.
LOGIT_BYTES, LOGIT_BYTES_COMPARED = 16, 80
FLOAT32_BYTES = 4

Windows = Int64[Tensor, "windows length"]


@dataclass(frozen=True, slots=True)
class Score:
    """Over `tokens` predictions. The last three are None when there is nothing to compare with.

    `divergence` is the mean KL divergence in nats from the other model's next-token distribution
    to this one's; `agreement` the share of positions with the same most likely token.
    """

    tokens: int
    perplexity: float
    other_perplexity: float | None = None
    divergence: float | None = None
    agreement: float | None = None


@dataclass(slots=True)
class _Sums:
    windows: int = 0
    tokens: int = 0
    surprise: float = 0.0
    other_surprise: float = 0.0
    divergence: float = 0.0
    agreed: int = 0

    def add(self, more: "_Sums") -> None:
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(more, one.name))

    def score(self, *, compared: bool) -> Score:
        if not math.isfinite(self.surprise + self.other_surprise + self.divergence):
            raise NumericError(
                "the model computed NaN or infinite logits", hint="try --dtype float32"
            )
        perplexity = _exp(self.surprise / self.tokens)
        if not compared:
            return Score(self.tokens, perplexity)
        return Score(
            self.tokens,
            perplexity,
            _exp(self.other_surprise / self.tokens),
            # Rounding can leave a sum of zeros a hair below zero.
            max(0.0, self.divergence / self.tokens),
            self.agreed / self.tokens,
        )


def cut_windows(ids: Int64[Tensor, " tokens"], length: int) -> Windows:
    """Windows of `length` one after the other, no overlap; a shorter rest is left out.

    Source: the evaluation of GPTQ (Frantar et al. 2022; IST-DASLab/gptq, `opt.py`).
    """
    count = len(ids) // length
    return ids[: count * length].view(count, length)


def score_windows(
    decoder: Decoder,
    windows: Windows,
    other: Decoder | None = None,
    *,
    name: str = "text",
    listener: Listener = ignore,
    kept: Kept | None = None,
) -> Score:
    """Predict tokens 1 .. length-1 of each window from those before them in it.

    `name` is what the listener is told that it is. What stands in `kept` is not scored again, and
    what is scored is kept there: the score is the same, to the bit. Peak memory beside the models:
    activations of TOKENS_AT_ONCE tokens and logits of LOGITS_AT_ONCE elements (or FEWEST_POSITIONS
    positions), about 80 bytes each with their float64 copies and those of the other model. A GPU
    without that much computes fewer windows at once.
    """
    kept, begun = kept or Kept(), time.perf_counter()
    sums = _Sums(**(kept.get("sums") or {}))
    batches = Batches(
        max(1, TOKENS_AT_ONCE // windows.shape[1]),
        lambda words: listener(Note(f"{name}: {words}")),
        unit="window",
        hint="use a smaller --seqlen, or --device cpu",
    )
    listener(Started(f"score {name}", len(windows), "window"))

    def score(some: slice) -> _Sums:
        return _summed(decoder, windows[some], other)

    for _, found in batches.run(len(windows), score, sums.windows):
        sums.add(found)
        kept.put("sums", asdict(sums))
        perplexity = _exp(sums.surprise / sums.tokens)
        listener(Advanced(sums.windows, figures={"perplexity": perplexity}))
    listener(Finished(time.perf_counter() - begun))
    return sums.score(compared=other is not None)


def scoring_bytes(shape: ModelShape, windows: Windows, *, compared: bool) -> int:
    """A bound on the memory of `score_windows` beside the models: activations of a forward and,
    where caches are compared, its keys and values; then logits with their copies.
    """
    tokens = windows[: max(1, TOKENS_AT_ONCE // windows.shape[1])].numel()
    forward = tokens * (4 * shape.hidden + 4 * shape.inner)
    cache = tokens * 2 * shape.kv_heads * shape.head_dim * shape.layers
    positions = min(tokens, max(FEWEST_POSITIONS, LOGITS_AT_ONCE // shape.vocab))
    logits = positions * shape.vocab * (LOGIT_BYTES_COMPARED if compared else LOGIT_BYTES)
    return FLOAT32_BYTES * (forward + cache) + logits


def _summed(decoder: Decoder, windows: Windows, other: Decoder | None) -> _Sums:
    sums = _Sums(windows=len(windows))
    targets = windows[:, 1:].flatten().to(decoder.device)
    hidden = _predicting(decoder, windows)
    others = None if other is None else _predicting(other, windows)
    step = max(FEWEST_POSITIONS, LOGITS_AT_ONCE // decoder.shape.vocab)
    for begin in range(0, len(targets), step):
        part = slice(begin, begin + step)
        logits = decoder.logits(hidden[part])
        sums.tokens += len(logits)
        if other is None or others is None:
            sums.surprise += _surprise(logits.log_softmax(-1), targets[part])
        else:
            compared = logits, other.logits(others[part]), targets[part]
            rows = max(1, LOGITS_AT_ONCE // decoder.shape.vocab)
            for pieces in zip(*(tensor.split(rows) for tensor in compared), strict=True):
                _compare(sums, *pieces)
    return sums


def _predicting(decoder: Decoder, windows: Windows) -> Float[Tensor, "positions hidden"]:
    """Hidden states of every position but the last of each window."""
    # A cache that rounds must be part of what is measured; one that does not would only cost.
    cache = decoder.new_cache(len(windows)) if decoder.cache_plan.alters else None
    return decoder.hidden(windows, cache)[:, :-1].flatten(0, 1)


@torch.inference_mode()
def _compare(
    sums: _Sums,
    logits: Float[Tensor, "positions vocab"],
    others: Float[Tensor, "positions vocab"],
    targets: Int64[Tensor, " positions"],
) -> None:
    sums.agreed += int((logits.argmax(-1) == others.argmax(-1)).sum())
    # float64: the divergence of a good copy is smaller than float32's rounding of each term.
    ours, theirs = logits.double().log_softmax(-1), others.double().log_softmax(-1)
    sums.surprise += _surprise(ours, targets)
    sums.other_surprise += _surprise(theirs, targets)
    sums.divergence += float(functional.kl_div(ours, theirs, reduction="sum", log_target=True))


def _surprise(
    log_probabilities: Float[Tensor, "positions vocab"], targets: Int64[Tensor, " positions"]
) -> float:
    """Summed negative log-likelihood in nats."""
    return -float(log_probabilities.gather(1, targets.unsqueeze(1)).double().sum())


def _exp(mean: float) -> float:
    """exp, infinite where it is larger than a float."""
    return math.exp(mean) if mean < 700 else math.inf
