"""Attention over keys and values that stay in 8 or 4 bits."""

from mindpress.kernels.cache_attention.pieces import attend_codes
from mindpress.kernels.cache_attention.scores import Scores

__all__ = ["Scores", "attend_codes"]
