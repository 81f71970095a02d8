"""A Hugging Face folder, in 16 or 32-bit floats or in AWQ codes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mindpress.checkpoint.reader import (
    FLOATS,
    Checkpoint,
    check_tensors,
    open_checkpoint,
    read_json,
    refuse_listed,
)
from mindpress.errors import InputError
from mindpress.formats import awq
from mindpress.formats.fusion import unfuse, unfuse_quantized
from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from mindpress.models.description import Architecture, Linear, Role
from mindpress.models.shape import ModelShape, architecture_of, read_shape
from mindpress.models.tensors import IGNORED_ENDINGS, all_tensors, linear_shape
from mindpress.sources.source import LinearWeight

NORM_FIELDS = ("attention_norm", "mlp_norm", "query_norm", "key_norm",
               "attention_output_norm", "mlp_output_norm")  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A checked folder: its tensors are those that config.json describes.

    `spec` says how the linears are quantized; None when they are floats. A linear whose group
    width does not fit may still be a float one in a quantized folder.
    """

    folder: Path
    config: dict[str, Any]
    architecture: Architecture
    shape: ModelShape
    checkpoint: Checkpoint
    spec: QuantSpec | None

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
        if self.spec is None or f"{name}.qweight" not in self.checkpoint:
            return self.checkpoint.tensor(f"{name}.weight")
        packed = {part: self.checkpoint.tensor(f"{name}.{part}") for part in awq.SUFFIXES}
        return awq.unpack(packed, self.spec)

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
    missing, extra or quantized in a way that cannot be read.
    """
    config = read_json(folder / "config.json")
    quantization = config.get("quantization_config")
    try:
        architecture = architecture_of(config)
        shape = read_shape(config, architecture)
        spec = None if quantization is None else awq.read_quantization_config(quantization)
    except InputError as error:  # which folder, where a command reads two
        raise type(error)(f"{folder}: {error}", hint=error.hint) from None
    checkpoint = open_checkpoint(folder)
    _check(checkpoint, architecture, shape, spec)
    return ModelFolder(folder, config, architecture, shape, checkpoint, spec)


def _check(
    checkpoint: Checkpoint, architecture: Architecture, shape: ModelShape, spec: QuantSpec | None
) -> None:
    expected = all_tensors(architecture, shape)
    ignored = IGNORED_ENDINGS + ((f"{architecture.head}.weight",) if shape.tied else ())
    if spec is None:
        check_tensors(checkpoint, expected, ignored)
        return
    packed: dict[str, tuple[int, ...]] = {}
    for index in range(shape.layers):
        for linear in architecture.block.linears:
            name = f"{architecture.layer(index)}.{linear.name}"
            if f"{name}.qweight" in checkpoint:
                del expected[f"{name}.weight"]
                packed |= _packed_shapes(name, *linear_shape(linear, shape), spec)
    endings = tuple(f".{part}" for part in awq.SUFFIXES)
    check_tensors(checkpoint, expected, (*ignored, *endings))
    stray = {n for n in checkpoint.tensors if n.endswith(endings) and n not in packed}
    refuse_listed(checkpoint.folder, "quantized tensors do not belong to the model", stray)
    _check_packed(checkpoint, packed)


def _packed_shapes(
    name: str, outputs: int, inputs: int, spec: QuantSpec
) -> dict[str, tuple[int, ...]]:
    if not awq.holds(outputs, inputs, spec):
        raise InputError(
            f"config.json: quantization_config: {spec.bits} bits in groups of {spec.group_size}"
            f" do not divide `{name}` of [{outputs}, {inputs}]",
            hint="the quantization_config is of another model",
        )
    shapes = awq.packed_shapes(outputs, inputs, spec)
    return {f"{name}.{part}": size for part, size in shapes.items()}


def _check_packed(checkpoint: Checkpoint, packed: dict[str, tuple[int, ...]]) -> None:
    folder, there = checkpoint.folder, checkpoint.tensors
    refuse_listed(folder, "tensors are missing", packed.keys() - there.keys())
    for name, size in packed.items():
        info = there[name]
        if info.shape != size:
            raise InputError(
                f"{info.file}: `{name}` is {list(info.shape)}, expected {list(size)}",
                hint="bits or group_size in quantization_config are not those of the weights",
            )
        if info.dtype not in (FLOATS if name.endswith(".scales") else (torch.int32,)):
            wanted = "16 or 32-bit floats" if name.endswith(".scales") else "torch.int32"
            raise InputError(f"{info.file}: `{name}` is {info.dtype}, expected {wanted}")
