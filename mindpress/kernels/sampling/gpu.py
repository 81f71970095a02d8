"""`sample` on a GPU.

Bytes moved: the logits once for greedy sequences, up to four times and once for each step of a
bisection for others, after the first time from L2. A bisection for top_k or top_p ends when no
logit lies between its ends, after about log2(range of the logits / distance of two at the edge)
steps: 10 where few tokens are kept, 20 where many are. The limit aimed at is what one
multiprocessor reads from L2: a sequence has one program.
"""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mindpress.errors import InputError
from mindpress.kernels.sampling.kernel import sample_kernel
from mindpress.kernels.sampling.parameters import SamplingRows
from mindpress.kernels.sampling.reference import COLDEST

BLOCK = 8192
WARPS = 16
LARGEST_VOCABULARY = 2**24  # counts are float32


def sample(
    logits: Float[Tensor, "sequences vocab"], parameters: SamplingRows, *, block: int = BLOCK
) -> Int64[Tensor, " sequences"]:
    """`sample_reference`: the same tokens, but where `uniform` is within rounding of an edge.

    One launch, no wait. InputError for more than 2^24 tokens.
    """
    sequences, vocab = logits.shape
    if not 0 < vocab <= LARGEST_VOCABULARY:
        raise InputError(f"a vocabulary of {vocab} tokens; the GPU kernel takes up to 2^24")
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    tokens = torch.empty(sequences, dtype=torch.int64, device=logits.device)
    if sequences > 0:
        launch: Any = sample_kernel  # Triton adds arguments of its own
        launch[(sequences,)](
            logits,
            *(parameters.temperature, parameters.top_k, parameters.top_p, parameters.min_p),
            *(parameters.uniform, tokens, vocab, logits.stride(0)),
            COLDEST=COLDEST,
            BLOCK=block,
            num_warps=WARPS,
        )
    return tokens
