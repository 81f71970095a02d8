"""Rows of queries as right operands of tensor cores; in Triton's language."""
