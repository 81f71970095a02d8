"""The weight files of a TurboMind workspace: which matrices there are, their names and sizes.

The one table that is read in both directions: the converter cuts a model into these files, and
the reader joins them again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int64
from torch import Tensor

from mindpress.formats.ranks import (
    Part,
    input_slice,
    join_inputs,
    outputs_of,
    reorder,
    stack_outputs,
    take_outputs,
)
from mindpress.formats.turbomind import sizes
from mindpress.formats.turbomind_config import WorkspaceConfig
from mindpress.models.description import Role

FLOAT_BYTES = 2
EMBEDDING, HEAD, FINAL_NORM = "tok_embeddings.weight", "output.weight", "norm.weight"
NORMS = {"attention_norm": "attention_norm.weight", "mlp_norm": "ffn_norm.weight"}


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix of a layer: the roles whose outputs it stacks, and how ranks share it.

    Splitting by outputs gives rank r the r-th part of every role. `interleaved` takes the outputs
    of the two roles in turn. A biased matrix has a bias whenever the model's attention has one.
    """

    name: str
    roles: tuple[Role, ...]
    split: Literal["outputs", "inputs"]
    interleaved: bool = False
    biased: bool = False


QUERY_KEY_VALUE = Matrix("attention.w_qkv", ("query", "key", "value"), "outputs", biased=True)
OUTPUT = Matrix("attention.wo", ("output",), "inputs", biased=True)
GATE = Matrix("feed_forward.w1", ("gate",), "outputs")
UP = Matrix("feed_forward.w3", ("up",), "outputs")
GATE_UP = Matrix("feed_forward.w13", ("gate", "up"), "outputs", interleaved=True)
DOWN = Matrix("feed_forward.w2", ("down",), "inputs")


def matrices(config: WorkspaceConfig) -> tuple[Matrix, ...]:
    """The matrices of every layer. Only the tiles of the ini layout join gate and up."""
    if config.layout == "ini" and config.spec is not None:
        return QUERY_KEY_VALUE, OUTPUT, GATE_UP, DOWN
    return QUERY_KEY_VALUE, OUTPUT, GATE, UP, DOWN


def rank_size(matrix: Matrix, config: WorkspaceConfig) -> tuple[int, int]:
    """(outputs, inputs) of the part of `matrix` that one rank has."""
    shape = config.shape
    outputs = sum(shape.rows[role] for role in matrix.roles)
    inputs = shape.columns[matrix.roles[0]]
    if matrix.split == "outputs":
        return outputs // config.tp, inputs
    return outputs, inputs // config.tp


def cut(matrix: Matrix, parts: Mapping[Role, Part], tp: int) -> Iterator[Part]:
    """The part of each rank, of weights and of the biases of a matrix split by outputs."""
    for rank in range(tp):
        if matrix.split == "inputs":
            yield input_slice(parts[matrix.roles[0]], rank, tp)
            continue
        stacked = stack_outputs([_output_part(parts[role], rank, tp) for role in matrix.roles])
        yield reorder(stacked, _in_turn(stacked)) if matrix.interleaved else stacked


def join(matrix: Matrix, ranks: list[Part], rows: Mapping[Role, int]) -> dict[Role, Part]:
    """Inverse of `cut`. `rows` are the outputs of each role."""
    if matrix.split == "inputs":
        return {matrix.roles[0]: join_inputs(ranks)}
    joined: dict[Role, list[Part]] = {role: [] for role in matrix.roles}
    for stacked in ranks:
        plain = reorder(stacked, _in_turn(stacked).argsort()) if matrix.interleaved else stacked
        start = 0
        for role in matrix.roles:
            stop = start + rows[role] // len(ranks)
            joined[role].append(take_outputs(plain, start, stop))
            start = stop
    return {role: stack_outputs(pieces) for role, pieces in joined.items()}


def file_name(layer: int, matrix: Matrix, rank: int, ending: str) -> str:
    """`layers.0.attention.w_qkv.1.weight`: the rank stands before the ending."""
    return f"layers.{layer}.{matrix.name}.{rank}.{ending}"


def outer_name(name: str, rank: int, config: WorkspaceConfig) -> str:
    """The embedding and the head are one file each in the ini layout, one per rank in yaml."""
    if config.layout == "ini":
        return name
    stem, ending = name.rsplit(".", 1)
    return f"{stem}.{rank}.{ending}"


def outer_count(config: WorkspaceConfig) -> int:
    """Into how many files the embedding and the head are split."""
    return 1 if config.layout == "ini" else config.tp


def weight_files(config: WorkspaceConfig) -> dict[str, int]:
    """Every weight file of the workspace and its bytes."""
    files = {FINAL_NORM: config.hidden * FLOAT_BYTES}
    for name in (EMBEDDING, HEAD):
        for rank in range(count := outer_count(config)):
            size = config.padded_vocab * config.hidden * FLOAT_BYTES // count
            files[outer_name(name, rank, config)] = size
    for layer in range(config.layers):
        for norm in NORMS.values():
            files[f"layers.{layer}.{norm}"] = config.hidden * FLOAT_BYTES
        for matrix in matrices(config):
            files |= _matrix_files(layer, matrix, config)
    return files


def _matrix_files(layer: int, matrix: Matrix, config: WorkspaceConfig) -> dict[str, int]:
    outputs, inputs = rank_size(matrix, config)
    endings = sizes(outputs, inputs, config.layout, config.spec)
    if matrix.biased and config.attn_bias:
        endings |= {"bias": outputs * FLOAT_BYTES}
    return {
        file_name(layer, matrix, rank, ending): size
        for rank in range(config.tp)
        for ending, size in endings.items()
    }


def _output_part(part: Part, rank: int, tp: int) -> Part:
    outputs = outputs_of(part) // tp
    return take_outputs(part, rank * outputs, (rank + 1) * outputs)


def _in_turn(stacked: Part) -> Int64[Tensor, " outputs"]:
    """First output of the first half, first of the second half, second of the first ..."""
    return torch.arange(outputs_of(stacked)).view(2, -1).t().flatten()
