"""Weights of 4 bits as matrices of 16-bit numbers, for many rows."""
