"""Turn a large language model into a small, fast one, and prove that it still works."""

__version__ = "0.1.0"
