"""A model on disk -> a decoder in memory."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from mindpress.device import choose_device
from mindpress.engine.cache_plan import CachePlan, plan_cache
from mindpress.engine.config import EngineConfig, ModelFormat
from mindpress.engine.decoder import Decoder
from mindpress.engine.glue import Glue, glue_of
from mindpress.engine.layer import Layer, Outer, Weights
from mindpress.engine.linear import (
    NOT_FINITE,
    FloatLinear,
    Int8Linear,
    Linear,
    Own,
    Placement,
    SummedLinear,
    head_of,
    outer_dtype,
    stack,
)
from mindpress.engine.memory import device_errors
from mindpress.engine.reshaped import lengthened, part_of
from mindpress.engine.rotary import Rotary
from mindpress.errors import ConfigError, ResourceError
from mindpress.events import Advanced, Finished, Listener, Note, Started, ignore
from mindpress.formats.finite import check_finite
from mindpress.kernels.dispatch import choose_kernels
from mindpress.memory import available_bytes
from mindpress.models.description import Role
from mindpress.models.shape import ModelShape
from mindpress.models.tensors import all_tensors
from mindpress.sources.opening import format_of
from mindpress.sources.source import ModelSource

# Groups of more inputs are kept as several of this many.
LARGEST_GROUP = 128
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class Share:
    """Process `rank` `of` so many that run a model together; `add` adds up what they computed."""

    rank: int
    of: int
    add: Callable[[Tensor], Tensor]


def load_decoder(
    source: ModelSource,
    config: EngineConfig,
    listener: Listener = ignore,
    share: Share | None = None,
) -> Decoder:
    """Read every weight of `source` into the compute dtype of `config`, or only a `share` of each.

    Peak memory: the weights in that dtype and, while they are made, those of one layer as they are
    on disk. Raises ConfigError, ResourceError when it does not fit, and NumericError on NaN.
    """
    check_format(source, config.model_format)
    source = lengthened(source, config.rope_scaling_factor)
    add = None
    if share is not None:
        source, add = part_of(source, share.rank, share.of), share.add
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, source.shape.dtype, device)
    kernels = choose_kernels(config.kernels, device, dtype)
    glue = glue_of(kernels, source.shape.activation)
    rotary = Rotary(source.shape, device, dtype)
    place = Placement(device, dtype, kernels, add, source.activations)
    check_memory(source, place)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with device_errors():
        plan = plan_cache(source, config.quant_policy, listener)
        return _Loading(source, place).decoder(rotary, glue, plan, listener)


def check_format(source: ModelSource, wanted: ModelFormat | None) -> None:
    """ConfigError when the model is in another format than was asked for."""
    found = format_of(source)
    if wanted not in (None, found):
        raise ConfigError(
            f"--model-format {wanted}: the model is in the format {found}",
            hint=f"use --model-format {found}, or leave it out",
        )


def choose_dtype(name: str, stored: str, device: torch.device) -> torch.dtype:
    """The compute dtype: what was asked for; else float32 on the CPU, the checkpoint's on CUDA."""
    if name == "auto":
        name = "float32" if device.type == "cpu" else stored
    if name not in DTYPES:
        raise ConfigError(f"dtype `{name}` cannot be computed in", hint="use --dtype bfloat16")
    return DTYPES[name]


def check_memory(source: ModelSource, place: Placement, beside: int = 0) -> None:
    """Refuse a model whose weights do not fit into the memory that is free now, but for what will
    be taken `beside` it.
    """
    device, dtype, need = place.device, place.dtype, needed_bytes(source, place)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
    free = max(0, free - beside)
    if need > free:
        where = "left beside the other model" if beside else "free"
        raise ResourceError(
            f"the weights take {need / 2**30:.1f} GiB in {dtype},"
            f" {free / 2**30:.1f} GiB of memory are {where}",
            hint=_smaller(source, dtype),
        )


def needed_bytes(source: ModelSource, place: Placement) -> int:
    """Bytes of all weights of a source in memory."""
    tensors = all_tensors(source.architecture, source.shape).values()
    dense = sum(torch.Size(size).numel() for size in tensors) * place.dtype.itemsize
    return dense - _saved(source, place)


def _smaller(source: ModelSource, dtype: torch.dtype) -> str | None:
    """What would take less memory. bfloat16 keeps the kernels from 4-bit weights on a CPU."""
    if source.spec is not None or dtype != torch.float32:
        return None
    return "--dtype bfloat16 halves float32"


def _saved(source: ModelSource, place: Placement) -> int:
    """Bytes that weights kept in codes take less than in the type they compute in."""
    shape, saved = source.shape, float(_saved_outside(source, place))
    for layer, (role, outputs) in product(range(shape.layers), shape.rows.items()):
        spec, inputs = source.spec_of(layer, role), shape.columns[role]
        if spec is None:
            continue
        kept = place.dtype.itemsize
        if place.rounds(spec, inputs):
            kept = 1 + 4 / inputs
        elif place.kernels.packs(spec, outputs, inputs):
            kept = 0.5 + 5 / min(spec.group_of(inputs), LARGEST_GROUP)
        saved += outputs * inputs * (place.dtype.itemsize - kept)
    return int(saved)


def _saved_outside(source: ModelSource, place: Placement) -> int:
    """The same of embedding and head."""
    shape, wide = source.shape, place.dtype.itemsize
    stored = DTYPES.get(shape.dtype, torch.float32)
    kept = outer_dtype(stored, place).itemsize
    saved = wide - kept
    if place.kernels.name == "cpu" and not place.kernels.exact:
        saved += -1 if shape.tied else wide - 1
    elif not shape.tied:
        saved += wide - kept
    return saved * shape.vocab * shape.hidden


class _Loading:
    """Reads the parts of one source into one dtype on one device."""

    def __init__(self, source: ModelSource, place: Placement) -> None:
        self._source, self._place = source, place
        self._device, self._dtype = place.device, place.dtype

    def decoder(self, rotary: Rotary, glue: Glue, plan: CachePlan, listener: Listener) -> Decoder:
        shape, begun = self._source.shape, time.perf_counter()
        listener(Started("load", shape.layers))
        layers = []
        for index in range(shape.layers):
            layers.append(self._layer(index))
            listener(Advanced(index + 1))
        outer = self._outer()
        if self._source.spec:
            _tell_dense(layers, self._place, listener)
        listener(Finished(time.perf_counter() - begun))
        weights = Weights(layers, outer)
        return Decoder(shape, weights, rotary, glue, plan, self._place.kernels)

    def _layer(self, index: int) -> Layer:
        source, shape = self._source, self._source.shape
        linears, norms = source.linears(index), source.norms(index)

        def stacked(*roles: Role) -> Own:
            name = f"layer {index}: {', '.join(roles)}"
            parts = [linears[role] for role in roles]
            return stack(parts, self._place, name)

        norm = {
            name: self._norm(weight, f"layer {index}: {name}") for name, weight in norms.items()
        }
        return Layer(
            attention_norm=norm["attention_norm"],
            query_key_value=stacked("query", "key", "value"),
            attention_output=self._summed(stacked("output")),
            mlp_norm=norm["mlp_norm"],
            gate_up=stacked("gate", "up"),
            down=self._summed(stacked("down")),
            head_norm=_head_norm(norm, shape) if "query_norm" in norm else None,
            attention_output_norm=norm.get("attention_output_norm"),
            mlp_output_norm=norm.get("mlp_output_norm"),
            window=shape.windows[index] if shape.windows else None,
        )

    def _summed(self, linear: Own) -> Linear:
        add = self._place.add
        return linear if add is None else SummedLinear(linear, add)

    def _outer(self) -> Outer:
        source, shape = self._source, self._source.shape
        embedding = self._outer_matrix(source.embedding(), "embedding")
        head = embedding if shape.tied else self._outer_matrix(source.head(), "head")
        # Gemma rounds the factor to the dtype it multiplies in.
        factor = torch.tensor(shape.hidden**0.5).to(self._dtype).item()
        return Outer(
            dtype=self._dtype,
            embedding=embedding,
            embedding_scale=factor if source.architecture.scales_embedding else 1.0,
            final_norm=self._norm(source.final_norm(), "final norm"),
            head=head_of(head, self._place),
        )

    def _outer_matrix(self, stored: Tensor, name: str) -> Tensor:
        """In the dtype the model computes in, or in 16 bits where rows are widened when used."""
        dtype = outer_dtype(stored.dtype, self._place)
        matrix = stored.to(self._device, dtype)
        check_finite(matrix, f"{name} in {dtype}", NOT_FINITE)
        return matrix

    def _norm(self, stored: Tensor, name: str) -> Float[Tensor, " channels"]:
        weight = stored.to(self._device, torch.float32) + self._source.architecture.norm_offset
        check_finite(weight, f"{name} in {weight.dtype}", NOT_FINITE)
        return weight


def _tell_dense(layers: list[Layer], place: Placement, listener: Listener) -> None:
    """Say that weights in codes were dequantized, and why."""
    linears = [
        linear
        for layer in layers
        for linear in (layer.query_key_value, layer.attention_output, layer.gate_up, layer.down)
    ]
    own = [linear.own if isinstance(linear, SummedLinear) else linear for linear in linears]
    dense = sum(isinstance(linear, FloatLinear) for linear in own)
    rounding = sum(isinstance(linear, Int8Linear) for linear in own)
    if place.activations and rounding < len(linears):
        which = "those whose weights all have symmetric codes of 8 bits, a scale for each output"
        listener(
            Note(f"{rounding} of {len(linears)} linears read activations rounded to int8: {which}")
        )
    why = place.kernels.reason
    if rounding:
        why = "some of their weights are floats in the model"
    elif place.kernels.name != "reference":
        why = "the kernel takes 4 bits in groups of a multiple of 32, and the model holds others"
    if dense:
        listener(Note(f"{dense} of {len(linears)} linears are floats in memory: {why}"))


def _head_norm(norm: dict[str, Tensor], shape: ModelShape) -> Float[Tensor, "heads channels"]:
    """The query norm for every query head, then the key norm for every key head."""
    queries = norm["query_norm"].expand(shape.heads, -1)
    keys = norm["key_norm"].expand(shape.kv_heads, -1)
    return torch.cat((queries, keys))
