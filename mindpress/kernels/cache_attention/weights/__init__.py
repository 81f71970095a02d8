"""Weights of the softmax from pages of keys; in Triton's language."""
