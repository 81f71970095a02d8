"""The next token of every sequence, drawn where the logits are: nothing waits for the host."""

from mindpress.kernels.sampling.parameters import SamplingRows
from mindpress.kernels.sampling.reference import sample_reference

__all__ = ["SamplingRows", "sample_reference"]
