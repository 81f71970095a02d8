"""A model on disk as another one: with a lengthened context, or as the part of one process."""

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from torch import Tensor

from mindpress.errors import ConfigError
from mindpress.formats.activations import Activations
from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from mindpress.formats.ranks import Part, input_slice, outputs_of, take_outputs
from mindpress.models.description import Architecture, Role
from mindpress.models.shape import ModelShape, Rope
from mindpress.sources.source import LinearWeight, ModelSource

# Their outputs are shared out, and so the inputs of the two linears that read them.
SHARED_OUTPUTS: tuple[Role, ...] = ("query", "key", "value", "gate", "up")
SHARED_INPUTS: tuple[Role, ...] = ("output", "down")


@dataclass(frozen=True, slots=True)
class Reshaped:
    """`source` with another shape; with `tp` above 1, `rank`'s part of its weights."""

    source: ModelSource
    shape: ModelShape
    rank: int = 0
    tp: int = 1

    @property
    def architecture(self) -> Architecture:
        return self.source.architecture

    @property
    def tokenizer_folder(self) -> Path:
        return self.source.tokenizer_folder

    @property
    def spec(self) -> QuantSpec | None:
        return self.source.spec

    def spec_of(self, layer: int, role: Role) -> QuantSpec | None:
        return self.source.spec_of(layer, role)

    @property
    def activations(self) -> Activations | None:
        return self.source.activations

    def linears(self, layer: int) -> dict[Role, LinearWeight]:
        whole = self.source.linears(layer)
        if self.tp == 1:
            return whole
        return {role: self._part(role, linear) for role, linear in whole.items()}

    def norms(self, layer: int) -> dict[str, Tensor]:
        return self.source.norms(layer)

    def embedding(self) -> Tensor:
        return self.source.embedding()

    def final_norm(self) -> Tensor:
        return self.source.final_norm()

    def head(self) -> Tensor:
        return self.source.head()

    def _part(self, role: Role, linear: LinearWeight) -> LinearWeight:
        if role in SHARED_OUTPUTS:
            bias = None if linear.bias is None else _tensor(self._outputs(linear.bias))
            return LinearWeight(self._outputs(linear.weight), bias)
        # The products of all ranks are added, so the bias is that of one of them.
        bias = linear.bias if self.rank == 0 else None
        return LinearWeight(input_slice(linear.weight, self.rank, self.tp), bias)

    def _outputs(self, part: Part) -> Part:
        count = outputs_of(part) // self.tp
        return take_outputs(part, self.rank * count, (self.rank + 1) * count)


def lengthened(source: ModelSource, factor: float | None) -> ModelSource:
    """With dynamic NTK scaling of the context by `factor`; None: as it is.

    Source: LMDeploy, `rope_scaling_factor`. ConfigError for a model that has scaling already.
    """
    if factor is None or factor == 1:
        return source
    rope = source.shape.rope
    if rope.kind != "default":
        raise ConfigError(
            f"rope_scaling_factor {factor:g}: the model has {rope.kind} scaling of its own",
            hint="leave it out",
        )
    parameters = {
        "factor": factor,
        "original_max_position_embeddings": source.shape.max_length,
    }
    scaled = Rope(rope.theta, "dynamic", parameters)
    return Reshaped(source, replace(source.shape, rope=scaled))


def part_of(source: ModelSource, rank: int, tp: int) -> ModelSource:
    """What process `rank` of `tp` computes. ConfigError when it cannot be shared out so."""
    if tp == 1:
        return source
    check_divisible(source, tp)
    shape = source.shape
    own = replace(
        shape,
        heads=shape.heads // tp,
        kv_heads=shape.kv_heads // tp,
        inner=shape.inner // tp,
    )
    return Reshaped(source, own, rank, tp)


def check_divisible(source: ModelSource, tp: int) -> None:
    """Every process gets as many heads, channels and whole groups as the others."""
    shape = source.shape
    sizes = {("heads", shape.heads), ("kv heads", shape.kv_heads), ("inner channels", shape.inner)}
    for layer, role in product(range(shape.layers), SHARED_INPUTS):
        spec, columns = source.spec_of(layer, role), shape.columns[role]
        if spec is not None:
            sizes.add((f"groups of `{role}`", columns // spec.group_of(columns)))
    for name, size in sorted(sizes):
        if size % tp:
            raise ConfigError(
                f"tp {tp}: {size} {name} cannot be shared out evenly", hint="use a smaller tp"
            )


def _tensor(part: Part) -> Tensor:
    if isinstance(part, QuantizedWeight):
        raise TypeError("a bias is not quantized")
    return part
