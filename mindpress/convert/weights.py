"""The weights of a folder as the files of a workspace, a few tensors at a time."""

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mindpress.errors import NumericError
from mindpress.formats.finite import check_finite
from mindpress.formats.fusion import unfuse, unfuse_quantized
from mindpress.formats.quantized import QuantizedWeight
from mindpress.formats.ranks import Part, input_slice, pad_inputs, pad_outputs, reorder
from mindpress.formats.rotary import pairs_from_halves
from mindpress.formats.turbomind import encode
from mindpress.formats.turbomind_config import WorkspaceConfig
from mindpress.formats.turbomind_files import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    NORMS,
    Matrix,
    cut,
    file_name,
    matrices,
    outer_count,
    outer_name,
)
from mindpress.models.description import Linear, Role
from mindpress.sources.folder import ModelFolder

File = tuple[str, Tensor]
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class WeightFiles:
    """Yields (file name, contents) of a workspace. Peak memory: one group of linears and its files.

    Every value is checked on the way: NumericError names the tensor that is not finite, or that
    leaves the range of the type it is written in.
    """

    def __init__(self, folder: ModelFolder, config: WorkspaceConfig) -> None:
        self._folder, self._config = folder, config
        self._dtype = DTYPES[config.dtype]
        self._orders: dict[Role, Int64[Tensor, " rows"]] = {
            "query": pairs_from_halves(config.heads, config.head_dim, config.rotary_dim),
            "key": pairs_from_halves(config.kv_heads, config.head_dim, config.rotary_dim),
        }

    def outer(self) -> Iterator[File]:
        """Embedding, head and final norm. A tied head is written as a second copy."""
        yield from self._embedding()
        yield from self._head()
        name = f"{self._folder.architecture.final_norm}.weight"
        yield FINAL_NORM, self._checked(self._folder.final_norm(), name)

    def layer(self, index: int) -> Iterator[File]:
        """The files of one layer."""
        block = self._folder.architecture.block
        groups = (block.attention_inputs, (block.attention_output,),
                  block.mlp_inputs, (block.mlp_output,))  # fmt: skip
        for group in groups:
            yield from self._group(index, group)
        prefix = self._folder.architecture.layer(index)
        norms = self._folder.norms(index)
        for field, name in NORMS.items():
            stored = f"{prefix}.{getattr(block, field)}.weight"
            yield f"layers.{index}.{name}", self._checked(norms[field], stored)

    def _embedding(self) -> Iterator[File]:
        name = f"{self._folder.architecture.embedding}.weight"
        padded = pad_outputs(
            self._checked(self._folder.embedding(), name), self._config.padded_vocab
        )
        count = outer_count(self._config)
        for rank in range(count):
            piece = cast(Tensor, input_slice(padded, rank, count))
            yield outer_name(EMBEDDING, rank, self._config), piece.contiguous()

    def _head(self) -> Iterator[File]:
        name = f"{self._folder.architecture.head}.weight"
        padded = pad_outputs(self._checked(self._folder.head(), name), self._config.padded_vocab)
        pieces = cast(Tensor, padded).chunk(outer_count(self._config))
        for rank, piece in enumerate(pieces):
            yield outer_name(HEAD, rank, self._config), piece

    def _group(self, index: int, linears: tuple[Linear, ...]) -> Iterator[File]:
        """The matrices that are made of these linears."""
        weights: dict[Role, Part] = {}
        biases: dict[Role, Part] = {}
        for linear in linears:
            self._read(index, linear, weights, biases)
        for matrix in matrices(self._config):
            if weights.keys() >= set(matrix.roles):
                yield from self._matrix(index, matrix, weights)
                if matrix.biased and self._config.attn_bias:
                    yield from self._bias(index, matrix, biases)

    def _read(self, index: int, linear: Linear, weights: dict[Role, Part],
              biases: dict[Role, Part]) -> None:  # fmt: skip
        """Read a stored linear and add what its roles are in the workspace."""
        name = f"{self._folder.architecture.layer(index)}.{linear.name}"
        stored, shape = self._folder.linear(name), self._folder.shape
        if isinstance(stored.weight, Tensor):
            checked = self._checked(stored.weight, f"{name}.weight")
            parts: dict[Role, Part] = dict(unfuse(checked, linear, shape))
        else:
            checked = self._checked_scales(stored.weight, f"{name}.scales")
            parts = dict(unfuse_quantized(checked, linear, shape))
        weights |= {role: self._placed(part, role) for role, part in parts.items()}
        if stored.bias is not None:
            bias = unfuse(self._checked(stored.bias, f"{name}.bias"), linear, shape)
            biases |= {role: self._ordered(part, role) for role, part in bias.items()}

    def _placed(self, part: Part, role: Role) -> Part:
        """Rotary order for query and key, zeros for the inner width."""
        if role in self._orders:
            return self._ordered(part, role)
        if role in ("gate", "up"):
            return pad_outputs(part, self._config.inner)
        return pad_inputs(part, self._config.inner) if role == "down" else part

    def _ordered(self, part: Part, role: Role) -> Part:
        return reorder(part, self._orders[role]) if role in self._orders else part

    def _matrix(self, index: int, matrix: Matrix, weights: dict[Role, Part]) -> Iterator[File]:
        for rank, part in enumerate(cut(matrix, weights, self._config.tp)):
            for ending, contents in encode(part, self._config.layout).items():
                yield file_name(index, matrix, rank, ending), contents

    def _bias(self, index: int, matrix: Matrix, biases: dict[Role, Part]) -> Iterator[File]:
        """Zeros for a role without a bias. What is split by inputs has its whole bias in each."""
        rows, tp = self._config.shape.rows, self._config.tp
        whole: dict[Role, Part] = {
            role: biases.get(role, torch.zeros(rows[role], dtype=self._dtype))
            for role in matrix.roles
        }
        if matrix.split == "inputs":
            ranks = [whole[matrix.roles[0]]] * tp
        else:
            ranks = cut(matrix, whole, tp)
        for rank, part in enumerate(ranks):
            yield file_name(index, matrix, rank, "bias"), cast(Tensor, part)

    def _checked(self, tensor: Float[Tensor, "..."], name: str) -> Tensor:
        """The tensor in the type it is written in, or NumericError."""
        extremes = torch.stack(torch.aminmax(tensor))
        check_finite(extremes, f"{self._folder.folder}: `{name}`")
        if not extremes.to(self._dtype).isfinite().all():
            largest = extremes.abs().max().item()
            raise NumericError(
                f"{self._folder.folder}: `{name}` reaches {largest:g}, more than"
                f" {self._config.dtype} can hold",
                hint=None if self._config.spec else "use --dtype bfloat16",
            )
        return tensor.to(self._dtype)

    def _checked_scales(self, weight: QuantizedWeight, name: str) -> QuantizedWeight:
        return replace(weight, scales=self._checked(weight.scales, name))
