"""Codes of a cache as numbers of tensor cores; in Triton's language."""
