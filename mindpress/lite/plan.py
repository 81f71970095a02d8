"""What a recipe will do to a model, tensor by tensor, before any weight is read."""

from dataclasses import dataclass
from math import gcd, prod
from pathlib import Path
from typing import Any

import torch

from mindpress.checkpoint.hub import local_folder
from mindpress.errors import ConfigError, InputError
from mindpress.formats import awq
from mindpress.formats.quantized import WHOLE_ROW, QuantSpec
from mindpress.lite.recipe import Recipe
from mindpress.models.description import Linear
from mindpress.models.tensors import Shapes, block_tensors, linear_shape, outer_tensors
from mindpress.sources.folder import ModelFolder, open_folder

FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16}
USUAL_GROUPS = (128, 64, 32)
BYTES_FLOAT32 = 4
FACTOR_BYTES = 3 * 8 + 4  # X^T X, its root and the root's inverse in float64, then in float32
PAIRED_SQUARES = 3  # X^T X, drift and gap of the site at hand


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
    spec: QuantSpec
    linears: tuple[PlannedLinear, ...]
    stored: torch.dtype
    length: int
    bytes_before: int
    bytes_after: int
    peak_memory: int
    hidden_bytes: int
    notes: tuple[str, ...]

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

    def as_dict(self) -> dict[str, Any]:
        """For `--dry-run --json`."""
        return {
            "model": str(self.source.folder),
            "family": self.source.architecture.hf_class,
            "layers": self.source.shape.layers,
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
    awq.check_bits(spec.bits)
    download = Path(recipe.download_dir) if recipe.download_dir else None
    folder = local_folder(recipe.model, revision=recipe.revision, download_dir=download)
    source = open_folder(folder)
    if source.config.get("quantization_config"):
        raise InputError(
            f"{folder}: the model is quantized already",
            hint="give the original 16-bit model, or run `mindpress convert` on this one",
        )
    linears = _planned(source, spec)
    stored = _stored_type(recipe, source)
    length = min(recipe.calibration.length, source.shape.max_length)
    return QuantizationPlan(
        source=source,
        spec=spec,
        linears=linears,
        stored=stored,
        length=length,
        bytes_before=source.checkpoint.nbytes,
        bytes_after=_bytes_after(source, linears, spec, stored),
        peak_memory=_peak_memory(source, recipe, length),
        hidden_bytes=_hidden_bytes(source, recipe, length),
        notes=tuple(_notes(recipe, source, linears, length)),
    )


def elements(shapes: Shapes) -> int:
    """Elements of all tensors."""
    return sum(map(prod, shapes.values()))


def _planned(source: ModelFolder, spec: QuantSpec) -> tuple[PlannedLinear, ...]:
    linears = []
    for linear in source.architecture.block.linears:
        outputs, inputs = linear_shape(linear, source.shape)
        linears.append(PlannedLinear(linear, outputs, inputs, _obstacle(outputs, inputs, spec)))
    if all(planned.obstacle for planned in linears):
        widths = sorted({planned.inputs for planned in linears})
        fitting = [str(g) for g in USUAL_GROUPS if all(width % g == 0 for width in widths)]
        raise ConfigError(
            f"--w-group-size {spec.group_size} divides no input width of the model ({widths})",
            hint=f"try --w-group-size {', '.join([*fitting, '-1'])}",
        )
    return tuple(linears)


def _obstacle(outputs: int, inputs: int, spec: QuantSpec) -> str | None:
    if not spec.fits(inputs):
        fitting = [g for g in USUAL_GROUPS if inputs % g == 0] or [gcd(inputs, 128)]
        offered = ", ".join(map(str, fitting))
        return f"input width {inputs} is no multiple of {spec.group_size} ({offered} would fit)"
    if not awq.holds(outputs, inputs, spec):
        return f"{outputs} output channels do not fill 32-bit words"
    return None


def _stored_type(recipe: Recipe, source: ModelFolder) -> torch.dtype:
    if recipe.dtype != "auto":
        return FLOATS[recipe.dtype]
    kinds = {info.dtype for info in source.checkpoint.tensors.values()}
    return torch.bfloat16 if torch.bfloat16 in kinds else torch.float16


def _bytes_after(
    source: ModelFolder, linears: tuple[PlannedLinear, ...], spec: QuantSpec, stored: torch.dtype
) -> int:
    block = elements(block_tensors(source.architecture, source.shape))
    block_bytes = block * stored.itemsize
    for planned in linears:
        if not planned.obstacle:
            groups = planned.inputs // spec.group_of(planned.inputs)
            codes = planned.weights * spec.bits // 8
            grids = groups * planned.outputs * (2 * 8 + spec.bits) // 8
            block_bytes += codes + grids - planned.weights * stored.itemsize
    outer = elements(outer_tensors(source.architecture, source.shape))
    return outer * stored.itemsize + source.shape.layers * block_bytes


def _peak_memory(source: ModelFolder, recipe: Recipe, length: int) -> int:
    """One block in float32 with its codes, X^T X of its four inputs, hidden states, a batch.

    Compensation adds the factor of the widest inputs; the asymmetric path a second block, a second
    set of hidden states and what is recorded of the widest inputs.
    """
    shape, calibration = source.shape, recipe.calibration
    block = elements(block_tensors(source.architecture, shape))
    hessians = 2 * shape.hidden**2 + (shape.heads * shape.head_dim) ** 2 + shape.inner**2
    batch = calibration.batch_size * length * (2 * shape.hidden + 3 * shape.inner)
    largest = max(shape.inner * shape.hidden, 1)
    table = shape.vocab * shape.hidden * 2
    work = BYTES_FLOAT32 * (block + hessians + batch + 3 * largest) + 2 * block
    widest = max(shape.hidden, shape.heads * shape.head_dim, shape.inner)
    if recipe.rounding == "compensated":
        work += FACTOR_BYTES * widest**2
    if recipe.path == "asymmetric":
        work += BYTES_FLOAT32 * (block + PAIRED_SQUARES * widest**2)
    return max(work, table) + _hidden_bytes(source, recipe, length)


def _hidden_bytes(source: ModelFolder, recipe: Recipe, length: int) -> int:
    """Of the original path or of the quantized one; asymmetric calibration holds both."""
    sets = 2 if recipe.path == "asymmetric" else 1
    return sets * recipe.calibration.samples * length * source.shape.hidden * 2


def _notes(
    recipe: Recipe, source: ModelFolder, linears: tuple[PlannedLinear, ...], length: int
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
    if recipe.bits != awq.COMMON_BITS:
        notes.append(f"{recipe.bits}-bit AWQ folders are read by vLLM, not by LMDeploy")
    if recipe.group_size != USUAL_GROUPS[0]:
        notes.append(f"LMDeploy reads groups of {USUAL_GROUPS[0]} only; vLLM reads this one too")
    if source.shape.dtype == "float32" and recipe.dtype == "auto":
        notes.append("the 32-bit floats of the model are stored in 16 bits")
    return notes
