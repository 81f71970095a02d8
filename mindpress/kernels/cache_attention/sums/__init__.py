"""Sums of weighted values from pages; in Triton's language."""
