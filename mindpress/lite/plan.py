"""What a recipe will do to a model, tensor by tensor, before any weight is read."""

from dataclasses import dataclass
from math import gcd, prod
from pathlib import Path
from typing import Any

import torch

from mindpress.checkpoint.hub import local_folder
from mindpress.errors import ConfigError, InputError
from mindpress.formats.layout import Layout
from mindpress.formats.quantized import WHOLE_ROW, QuantSpec
from mindpress.formats.written import written_layout
from mindpress.lite.recipe import Recipe
from mindpress.lite.row_sample import ROWS_KEPT
from mindpress.models.description import Linear
from mindpress.models.tensors import Shapes, block_tensors, linear_shape, outer_tensors
from mindpress.sources.folder import ModelFolder, open_folder

FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16}
USUAL_GROUPS = (128, 64, 32)
BYTES_FLOAT32 = 4
# X^T X and the factor of its inverse; what observes the original path beside it, the drift.
SITE_SQUARES = {"original": 2, "quantized": 2, "asymmetric": 3}


@dataclass(frozen=True, slots=True)
class PlannedLinear:
    """A linear of every block: its widths, and why it stays in floats (None: it becomes codes)."""

    linear: Linear
    outputs: int
    inputs: int
    obstacle: str | None

    @property
    def weights(self) -> int:
        return self.outputs * self.inputs


@dataclass(frozen=True, slots=True)
class QuantizationPlan:
    """Sizes in bytes; `peak_memory` is an estimate of what the run adds to the bare process.

    `hidden_bytes` is the share of it that the hidden states of the calibration set take.
    """

    source: ModelFolder
    layout: Layout
    linears: tuple[PlannedLinear, ...]
    stored: torch.dtype
    length: int
    bytes_before: int
    bytes_after: int
    peak_memory: int
    hidden_bytes: int
    notes: tuple[str, ...]

    @property
    def spec(self) -> QuantSpec:
        return self.layout.spec

    @property
    def skipped(self) -> tuple[str, ...]:
        """Linears left in floats, relative to a block."""
        return tuple(p.linear.name for p in self.linears if p.obstacle)

    @property
    def parameters(self) -> int:
        """Weights of the model; a tied head counts once."""
        block = elements(block_tensors(self.source.architecture, self.source.shape))
        return elements(outer_tensors(self.source.architecture, self.source.shape)) + (
            self.source.shape.layers * block
        )

    @property
    def bits_per_weight(self) -> float:
        """Bits on disk for each weight of the whole model, everything included."""
        return 8 * self.bytes_after / self.parameters

    def bytes_with(self, left: int) -> int:
        """`bytes_after` when so many blocks stay in floats after all."""
        return self.bytes_after + left * _saved(self.linears, self.layout, self.stored)

    def as_dict(self) -> dict[str, Any]:
        """For `--dry-run --json`."""
        return {
            "model": str(self.source.folder),
            "family": self.source.architecture.hf_class,
            "layers": self.source.shape.layers,
            "format": self.layout.label,
            "readers": list(self.layout.readers),
            "calibration_length": self.length,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "bits_per_weight": round(self.bits_per_weight, 3),
            "peak_memory_bytes": self.peak_memory,
            "hidden_states_bytes": self.hidden_bytes,
            "linears": [
                {"name": p.linear.name, "outputs": p.outputs, "inputs": p.inputs,
                 "bits": 16 if p.obstacle else self.spec.bits, "left_because": p.obstacle}
                for p in self.linears
            ],
            "notes": list(self.notes),
        }  # fmt: skip


def plan_quantization(recipe: Recipe) -> QuantizationPlan:
    """Resolve and check the model against the recipe. Reads JSON and shard headers only.

    Raises what `open_folder` raises, ConfigError when a flag does not fit the model, and
    InputError when the model is quantized already.
    """
    if recipe.group_size < 1 and recipe.group_size != WHOLE_ROW:
        raise ConfigError(
            f"--w-group-size {recipe.group_size}: must be positive, or -1 for the whole row",
            hint="use 128, 64, 32 or -1",
        )
    spec = QuantSpec(recipe.bits, recipe.group_size, recipe.symmetric)
    layout = written_layout(recipe.written, spec)
    download = Path(recipe.download_dir) if recipe.download_dir else None
    folder = local_folder(recipe.model, revision=recipe.revision, download_dir=download)
    source = open_folder(folder)
    if source.config.get("quantization_config"):
        raise InputError(
            f"{folder}: the model is quantized already",
            hint="give the original 16-bit model, or run `mindpress convert` on this one",
        )
    linears = _planned(source, layout)
    stored = _stored_type(recipe, source)
    length = min(recipe.calibration.length, source.shape.max_length)
    return QuantizationPlan(
        source=source,
        layout=layout,
        linears=linears,
        stored=stored,
        length=length,
        bytes_before=source.checkpoint.nbytes,
        bytes_after=_bytes_after(source, linears, layout, stored),
        peak_memory=_peak_memory(source, recipe, length),
        hidden_bytes=_hidden_bytes(source, recipe, length),
        notes=tuple(_notes(recipe, source, layout, linears, length)),
    )


def elements(shapes: Shapes) -> int:
    """Elements of all tensors."""
    return sum(map(prod, shapes.values()))


def _planned(source: ModelFolder, layout: Layout) -> tuple[PlannedLinear, ...]:
    linears = []
    for linear in source.architecture.block.linears:
        outputs, inputs = linear_shape(linear, source.shape)
        linears.append(PlannedLinear(linear, outputs, inputs, _obstacle(outputs, inputs, layout)))
    if not any(layout.spec.fits(planned.inputs) for planned in linears):
        widths = sorted({planned.inputs for planned in linears})
        fitting = [str(g) for g in USUAL_GROUPS if all(width % g == 0 for width in widths)]
        raise ConfigError(
            f"--w-group-size {layout.spec.group_size} divides no input width of the model"
            f" ({widths})",
            hint=f"try --w-group-size {', '.join([*fitting, '-1'])}",
        )
    if all(planned.obstacle for planned in linears):
        raise ConfigError(
            f"--format: none of the linears fits: {linears[0].obstacle}",
            hint="use --format compressed-tensors, which fills words up",
        )
    return tuple(linears)


def _obstacle(outputs: int, inputs: int, layout: Layout) -> str | None:
    spec = layout.spec
    if not spec.fits(inputs):
        fitting = [g for g in USUAL_GROUPS if inputs % g == 0] or [gcd(inputs, 128)]
        offered = ", ".join(map(str, fitting))
        return f"input width {inputs} is no multiple of {spec.group_size} ({offered} would fit)"
    if not layout.holds(outputs, inputs):
        return f"{outputs} outputs or {inputs} inputs do not fill 32-bit words of {layout.label}"
    return None


def _stored_type(recipe: Recipe, source: ModelFolder) -> torch.dtype:
    if recipe.dtype != "auto":
        return FLOATS[recipe.dtype]
    kinds = {info.dtype for info in source.checkpoint.tensors.values()}
    return torch.bfloat16 if torch.bfloat16 in kinds else torch.float16


def _bytes_after(
    source: ModelFolder, linears: tuple[PlannedLinear, ...], layout: Layout, stored: torch.dtype
) -> int:
    block = elements(block_tensors(source.architecture, source.shape)) * stored.itemsize
    outer = elements(outer_tensors(source.architecture, source.shape)) * stored.itemsize
    return outer + source.shape.layers * (block - _saved(linears, layout, stored))


def _saved(linears: tuple[PlannedLinear, ...], layout: Layout, stored: torch.dtype) -> int:
    """Bytes that a block is smaller as codes."""
    saved = 0
    for planned in linears:
        if not planned.obstacle:
            parts = layout.parts(planned.outputs, planned.inputs)
            codes = sum(parts[name].nbytes for name in layout.written)
            saved += planned.weights * stored.itemsize - codes
    return saved


def _peak_memory(source: ModelFolder, recipe: Recipe, length: int) -> int:
    """Of the moment that takes most: one block in float32 while a candidate is tried, or a site
    while it is compensated; with X^T X, a batch and the hidden states.
    """
    shape, calibration = source.shape, recipe.calibration
    block = elements(block_tensors(source.architecture, shape))
    hessians = 2 * shape.hidden**2 + (shape.heads * shape.head_dim) ** 2 + shape.inner**2
    batch = calibration.batch_size * length * (2 * shape.hidden + 3 * shape.inner)
    largest = max(shape.inner * shape.hidden, 1)
    table = shape.vocab * shape.hidden * 2
    trial = BYTES_FLOAT32 * (block + batch + 3 * largest) + 2 * block
    if recipe.algorithm == "smooth_quant":
        rows = 2 * shape.hidden + shape.heads * shape.head_dim + shape.inner
        trial += BYTES_FLOAT32 * ROWS_KEPT * rows
    elif recipe.searches or recipe.path == "original":
        trial += BYTES_FLOAT32 * hessians
    if recipe.rounding == "nearest":
        return max(trial, table) + _hidden_bytes(source, recipe, length)
    stored = block * (
        FLOATS.get(shape.dtype, torch.float32).itemsize if recipe.path != "original" else 0
    )
    squares = SITE_SQUARES[recipe.path] * max(shape.hidden, shape.inner) ** 2
    site = block + BYTES_FLOAT32 * (squares + 2 * largest + batch)
    return max(trial + stored, site + stored, table) + _hidden_bytes(source, recipe, length)


def _hidden_bytes(source: ModelFolder, recipe: Recipe, length: int) -> int:
    """Of the original path or of the quantized one; asymmetric calibration holds both."""
    sets = 2 if recipe.path == "asymmetric" else 1
    return sets * recipe.calibration.samples * length * source.shape.hidden * 2


def _notes(
    recipe: Recipe,
    source: ModelFolder,
    layout: Layout,
    linears: tuple[PlannedLinear, ...],
    length: int,
) -> list[str]:
    notes = []
    if length < recipe.calibration.length:
        notes.append(f"--calib-seqlen {recipe.calibration.length} is longer than the model's "
                     f"{length} tokens; {length} is used")  # fmt: skip
    notes += [
        f"{planned.linear.name} stays in 16 bits in every layer: {planned.obstacle}"
        for planned in linears
        if planned.obstacle
    ]
    notes += layout.limits
    if source.shape.dtype == "float32" and recipe.dtype == "auto":
        notes.append("the 32-bit floats of the model are stored in 16 bits")
    return notes
