"""How the keys and values of a model are kept: in floats, in 8 or in 4 bits."""

from dataclasses import dataclass, replace

import torch

from mindpress.engine.cache import Cache, FloatLayer, LayerCache, empty_room
from mindpress.engine.config import QuantPolicy
from mindpress.engine.paged import LayerPages
from mindpress.engine.quantized_cache import QuantizedLayer, fixed_codes, online_codes
from mindpress.errors import InputError
from mindpress.events import Listener, Note, ignore
from mindpress.formats.cache_codes import CacheTensor
from mindpress.formats.cache_pages import (
    CachePages,
    PageShape,
    fixed_pages,
    float_pages,
    online_pages,
)
from mindpress.formats.cache_scales import CacheScales, Grid
from mindpress.formats.cache_spec import CacheSpec
from mindpress.models.shape import ModelShape
from mindpress.sources.cache_file import read_cache_scales
from mindpress.sources.source import ModelSource
from mindpress.sources.workspace import Workspace

# A zero point more would take int8 above 0.52 of 16 bits where heads are narrower than this.
WIDE_HEAD = 128


@dataclass(frozen=True, slots=True)
class PagePlace:
    """Where pages lie, and whether the numbers of a channel of the values lie side by side."""

    device: torch.device
    by_channel: bool


@dataclass(frozen=True, slots=True)
class CachePlan:
    """`scales` None: floats of `dtype`, or of the type the model computes in. Scales without
    grids belong to a token and head and are made when it is written.
    """

    scales: CacheScales | None = None
    dtype: torch.dtype | None = None

    @property
    def alters(self) -> bool:
        """Whether what is read back differs from what was computed."""
        return self.scales is not None or self.dtype is not None

    def new_cache(
        self, shape: ModelShape, batch: int, dtype: torch.dtype, device: torch.device
    ) -> Cache:
        """An empty cache for `batch` sequences of equal length of a model computing in `dtype`."""
        if self.scales is None:
            size = batch, shape.kv_heads, shape.head_dim
            room = empty_room(*size, dtype=self.dtype or dtype, device=device)
            return Cache([FloatLayer(room) for _ in range(shape.layers)])
        codes = _Codes(self.scales, shape, batch, device)
        return Cache([codes.layer(index) for index in range(shape.layers)])

    def new_pages(
        self, shape: ModelShape, size: tuple[int, int], dtype: torch.dtype, place: PagePlace
    ) -> list[LayerPages]:
        """Empty pages for every layer; `size` is how many, and of how many tokens."""
        keys = PageShape(size[0], shape.kv_heads, size[1], shape.head_dim)
        values = replace(keys, by_channel=place.by_channel)
        made = _Pages(self.scales, self.dtype or dtype, place.device)
        return [made.layer(index, keys, values) for index in range(shape.layers)]

    def describe(self, dtype: torch.dtype) -> str:
        """For people: `int8, calibrated per tensor`, `int4, scaled per token`, `float16`."""
        if self.scales is None:
            return str(self.dtype or dtype).removeprefix("torch.")
        spec = self.scales.spec
        if self.scales.keys is None:
            return f"int{spec.bits}, scaled per token"
        what = "" if self.scales.values else "keys "
        return f"int{spec.bits}, {what}calibrated per {spec.granularity}"


@dataclass(frozen=True, slots=True)
class _Codes:
    """Makes the empty layers of one cache."""

    scales: CacheScales
    shape: ModelShape
    batch: int
    device: torch.device

    def layer(self, index: int) -> LayerCache:
        keys, values = self.scales.keys, self.scales.values
        return QuantizedLayer(self._codes(keys, index), self._codes(values, index))

    def _codes(self, grid: Grid | None, index: int) -> CacheTensor:
        shape, spec = self.shape, self.scales.spec
        if grid is None:
            return online_codes(self.batch, shape.kv_heads, shape.head_dim, spec, self.device)
        scale, zero = grid.scale[index].to(self.device), grid.zero[index].to(self.device)
        return fixed_codes(self.batch, shape.head_dim, spec, scale, zero)


@dataclass(frozen=True, slots=True)
class _Pages:
    """Makes the empty pages of layers."""

    scales: CacheScales | None
    dtype: torch.dtype
    device: torch.device

    def layer(self, index: int, keys: PageShape, values: PageShape) -> LayerPages:
        if self.scales is None:
            return LayerPages(
                *(float_pages(one, self.dtype, self.device) for one in (keys, values))
            )
        spec = self.scales.spec
        return LayerPages(
            self._codes(keys, spec, self.scales.keys, index),
            self._codes(values, spec, self.scales.values, index),
        )

    def _codes(
        self, shape: PageShape, spec: CacheSpec, grid: Grid | None, index: int
    ) -> CachePages:
        if grid is None:
            return online_pages(shape, spec, self.device)
        scale, zero = grid.scale[index].to(self.device), grid.zero[index].to(self.device)
        return fixed_pages(shape, spec, scale, zero)


def plan_cache(
    source: ModelSource, policy: QuantPolicy | None, listener: Listener = ignore
) -> CachePlan:
    """What `policy` means for a model; None: what its workspace asks for.

    4 and 8 are bits, 0 is floats (LMDeploy since 0.4). Calibrated scales of the workspace are used
    where they have these bits; else every token and head has its own scale. InputError when the
    head size is odd, and for damaged scales.
    """
    stored = read_cache_scales(source) if isinstance(source, Workspace) else None
    bits = _bits(source, policy, stored)
    if not bits:
        return CachePlan()
    if source.shape.head_dim % 2:
        raise InputError(
            f"a quantized cache needs an even head size, the model has {source.shape.head_dim}",
            hint="use --quant-policy 0",
        )
    if stored and stored.spec.bits == bits:
        return CachePlan(stored)
    if stored:
        listener(
            Note(
                f"the calibrated scales are for {stored.spec.bits} bits: the {bits}-bit cache is"
                " scaled per token"
            )
        )
    return online_plan(bits, source.shape.head_dim)


def online_plan(bits: int, head_dim: int) -> CachePlan:
    """A scale for every token and head; int8 in narrow heads does without a zero point."""
    spec = CacheSpec(bits, symmetric=bits == 8 and head_dim < WIDE_HEAD)
    return CachePlan(CacheScales(spec, None, None))


def _bits(source: ModelSource, policy: QuantPolicy | None, stored: CacheScales | None) -> int:
    if policy is not None:
        return policy
    if stored:
        return stored.spec.bits
    return (source.config.cache_bits or 0) if isinstance(source, Workspace) else 0
