"""Workspaces of a tiny model that random and golden ranges fit, and what is found in them."""

from pathlib import Path

from tiny_models import save_tiny

# Two layers with two kv heads of 128, as the golden statistics have.
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "vocab_size": 101,
}


def save_ranged(folder: Path, *, seed: int = 0) -> Path:
    """Write a model whose keys and values have the sizes of `golden_ranges`."""
    return save_tiny("llama", folder, seed=seed, **SIZES)


def weights_of(workspace: Path) -> Path:
    return workspace / "triton_models" / "weights"


def contents(workspace: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(workspace)): file.read_bytes()
        for file in sorted(workspace.rglob("*"))
        if file.is_file()
    }


def policy(workspace: Path) -> str:
    lines = (weights_of(workspace) / "config.ini").read_text().splitlines()
    return next(line for line in lines if line.startswith("quant_policy"))
