"""A Hugging Face folder, in 16 or 32-bit floats or in codes of AWQ, GPTQ or compressed-tensors."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mindpress.checkpoint.manifest import check_sizes
from mindpress.checkpoint.reader import (
    Checkpoint,
    check_tensors,
    open_checkpoint,
    read_json,
    refuse_link_outside,
)
from mindpress.errors import InputError
from mindpress.formats.activations import Activations, read_activations
from mindpress.formats.fusion import unfuse, unfuse_quantized
from mindpress.formats.layout import Layout
from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from mindpress.formats.scattered import dequantize_scattered
from mindpress.models.description import Architecture, Linear, Role
from mindpress.models.shape import ModelShape, architecture_of, read_shape
from mindpress.models.tensors import IGNORED_ENDINGS, all_tensors, linear_shape
from mindpress.sources.coded import Sizes, any_scattered, check_coded, coded_linears
from mindpress.sources.layouts import read_layout
from mindpress.sources.source import LinearWeight

NORM_FIELDS = ("attention_norm", "mlp_norm", "query_norm", "key_norm",
               "attention_output_norm", "mlp_output_norm")  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A checked folder: its tensors are those that config.json describes.

    `layout` says how its program wrote the linears in `coded` (full name -> outputs, inputs); None
    when all are floats. Some linears may still be floats in a quantized folder.

    With `scattered` the groups of some linears are not neighbouring inputs (GPTQ with `desc_act`).
    Codes cannot be given then: all linears are dequantized when they are read.
    """

    folder: Path
    config: dict[str, Any]
    architecture: Architecture
    shape: ModelShape
    checkpoint: Checkpoint
    layout: Layout | None = None
    coded: Sizes = field(default_factory=dict)
    scattered: bool = False
    activations: Activations | None = None

    @property
    def spec(self) -> QuantSpec | None:
        """How most linears are quantized; None when all are given as floats."""
        return None if self.layout is None or self.scattered else self.layout.spec

    def spec_of(self, layer: int, role: Role) -> QuantSpec | None:
        """How one linear is quantized."""
        linear = self.architecture.block.linear_of(role)
        name = f"{self.architecture.layer(layer)}.{linear.name}"
        if self.spec is None or self.layout is None or name not in self.coded:
            return None
        return self.layout.of(name).spec

    @property
    def tokenizer_folder(self) -> Path:
        return self.folder

    @property
    def embedding_type(self) -> torch.dtype:
        """The float type of the embedding, which is that of the hidden states."""
        return self.checkpoint.tensors[f"{self.architecture.embedding}.weight"].dtype

    def linears(self, layer: int) -> dict[Role, LinearWeight]:
        roles: dict[Role, LinearWeight] = {}
        for linear in self.architecture.block.linears:
            roles |= self._roles(f"{self.architecture.layer(layer)}.{linear.name}", linear)
        return roles

    def norms(self, layer: int) -> dict[str, Tensor]:
        block, prefix = self.architecture.block, self.architecture.layer(layer)
        names = {field: getattr(block, field) for field in NORM_FIELDS}
        return {
            field: self.checkpoint.tensor(f"{prefix}.{name}.weight")
            for field, name in names.items()
            if name
        }

    def embedding(self) -> Tensor:
        return self.checkpoint.tensor(f"{self.architecture.embedding}.weight")

    def final_norm(self) -> Tensor:
        return self.checkpoint.tensor(f"{self.architecture.final_norm}.weight")

    def head(self) -> Tensor:
        if self.shape.tied:
            return self.embedding()
        return self.checkpoint.tensor(f"{self.architecture.head}.weight")

    def linear(self, name: str) -> LinearWeight:
        """A linear by its full name, as it is stored (fused roles stay fused)."""
        bias = f"{name}.bias"
        return LinearWeight(
            self._weight(name), self.checkpoint.tensor(bias) if bias in self.checkpoint else None
        )

    def _weight(self, name: str) -> Tensor | QuantizedWeight:
        if self.layout is None or name not in self.coded:
            return self.checkpoint.tensor(f"{name}.weight")
        layout = self.layout.of(name)
        parts = {
            part: self.checkpoint.tensor(f"{name}.{part}")
            for part in layout.parts(1, 1)
            if f"{name}.{part}" in self.checkpoint
        }
        weight = layout.unpack(parts, self.coded[name][1])
        if not self.scattered:
            return weight
        index = parts.get(layout.index or "")
        if index is None:
            return weight.dequantize(torch.float32)
        return dequantize_scattered(weight, index)

    def _roles(self, name: str, linear: Linear) -> dict[Role, LinearWeight]:
        stored = self.linear(name)
        biases = {} if stored.bias is None else unfuse(stored.bias, linear, self.shape)
        if isinstance(stored.weight, Tensor):
            weights: dict[Role, Any] = dict(unfuse(stored.weight, linear, self.shape))
        else:
            weights = unfuse_quantized(stored.weight, linear, self.shape)
        return {role: LinearWeight(weights[role], biases.get(role)) for role in linear.roles}


def open_folder(folder: Path) -> ModelFolder:
    """Open and check a folder. Reads JSON and shard headers, no weights.

    Raises UnsupportedModelError for an unknown family and InputError for anything damaged,
    missing, extra or quantized in a way that cannot be read. Of weights only the group of each
    input is read, where GPTQ stored it.
    """
    refuse_link_outside(folder / "config.json")
    config = read_json(folder / "config.json")
    quantization = config.get("quantization_config")
    try:
        architecture = architecture_of(config)
        shape = read_shape(config, architecture)
        layout = None if quantization is None else read_layout(quantization)
        activations = None if quantization is None else read_activations(quantization)
    except InputError as error:  # which folder, where a command reads two
        hint = error.hint or "correct config.json, or download it again"
        raise type(error)(f"{folder}: {error}", hint=hint) from None
    checkpoint = open_checkpoint(folder)
    check_sizes(folder)
    if layout is None:
        _check(checkpoint, architecture, shape)
        return ModelFolder(folder, config, architecture, shape, checkpoint)
    coded = coded_linears(checkpoint, layout, linear_sizes(architecture, shape))
    _check(checkpoint, architecture, shape, coded, check_coded(checkpoint, layout, coded))
    scattered = any_scattered(checkpoint, layout, coded)
    return ModelFolder(
        folder, config, architecture, shape, checkpoint, layout, coded, scattered, activations
    )


def linear_sizes(architecture: Architecture, shape: ModelShape) -> Sizes:
    """(outputs, inputs) of every linear of the blocks by its full name."""
    return {
        f"{architecture.layer(index)}.{linear.name}": linear_shape(linear, shape)
        for index in range(shape.layers)
        for linear in architecture.block.linears
    }


def _check(
    checkpoint: Checkpoint,
    architecture: Architecture,
    shape: ModelShape,
    coded: Collection[str] = (),
    packed: Collection[str] = (),
) -> None:
    """Every tensor of the model is there and no other, but `packed` for the weights of `coded`."""
    expected = all_tensors(architecture, shape)
    for name in coded:
        del expected[f"{name}.weight"]
    ignored = IGNORED_ENDINGS + ((f"{architecture.head}.weight",) if shape.tied else ())
    check_tensors(checkpoint, expected, (*ignored, *packed))
