"""What a recipe will do to a model, tensor by tensor, before any weight is read."""

from dataclasses import dataclass
from math import ceil, gcd, prod
from pathlib import Path
from typing import Any

import torch

from mindpress.checkpoint.hub import local_folder
from mindpress.errors import ConfigError, InputError
from mindpress.formats.layout import Layout
from mindpress.formats.quantized import WHOLE_ROW, QuantSpec
from mindpress.formats.written import wider_than, written_layout
from mindpress.lite.peak import peak_memory, states_bytes
from mindpress.lite.recipe import Recipe
from mindpress.lite.sites import sites_of
from mindpress.lite.sizes import LinearSizes, PlannedLinear
from mindpress.lite.task import IN_FLOATS, SiteWidths
from mindpress.memory import bound_of
from mindpress.models.tensors import Shapes, block_tensors, linear_shape, outer_tensors
from mindpress.sources.folder import ModelFolder, open_folder

FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16}
USUAL_GROUPS = (128, 64, 32)
# They read folders whose linears all have one width.
ONE_WIDTH = ("LMDeploy",)


@dataclass(frozen=True, slots=True)
class QuantizationPlan:
    """Sizes in bytes; `peak_memory` is a bound on what the run adds to the bare process.

    `hidden_bytes` is the share of it that the hidden states of the calibration set take. `widths`
    are the bits per weight that linears can get, and `linear_bytes` what they take in all, or with
    several widths may take.
    """

    source: ModelFolder
    layout: Layout
    linears: tuple[PlannedLinear, ...]
    stored: torch.dtype
    length: int
    widths: tuple[int, ...]
    linear_bytes: int
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
    def linear_bits_per_weight(self) -> float:
        """Bits on disk for each weight of the linears, scales and zeros included."""
        return 8 * self.linear_bytes / (self.sizes.weights * self.source.shape.layers)

    @property
    def bits_per_weight(self) -> float:
        """Bits on disk for each weight of the whole model, everything included."""
        return 8 * self.bytes_after / self.parameters

    @property
    def readers(self) -> tuple[str, ...]:
        """Programs that read the folder."""
        uniform = len(self.widths) == 1
        return tuple(name for name in self.layout.readers if uniform or name not in ONE_WIDTH)

    @property
    def sizes(self) -> LinearSizes:
        block = self.source.architecture.block
        return LinearSizes(block, self.linears, self.layout, self.stored)

    @property
    def uniform(self) -> tuple[SiteWidths, ...]:
        """The fewest bits for every site of every layer."""
        sites = sites_of(self.source.architecture.block)
        return ({site.name: self.spec.bits for site in sites},) * self.source.shape.layers

    @property
    def other_bytes(self) -> int:
        """Of what is no linear."""
        return self.bytes_after - self.linear_bytes

    def as_dict(self) -> dict[str, Any]:
        """For `--dry-run --json`."""
        return {
            "model": str(self.source.folder),
            "family": self.source.architecture.hf_class,
            "layers": self.source.shape.layers,
            "format": self.layout.label,
            "readers": list(self.readers),
            "calibration_length": self.length,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "bits_per_weight": round(self.bits_per_weight, 3),
            "linear_bits_per_weight": round(self.linear_bits_per_weight, 3),
            "peak_memory_bytes": self.peak_memory,
            "hidden_states_bytes": self.hidden_bytes,
            "linears": [
                {"name": p.linear.name, "outputs": p.outputs, "inputs": p.inputs,
                 "bits": [16] if p.obstacle else list(self.widths), "left_because": p.obstacle}
                for p in self.linears
            ],
            "notes": list(self.notes),
        }  # fmt: skip


def plan_quantization(recipe: Recipe) -> QuantizationPlan:
    """Resolve and check the model against the recipe. Reads JSON and shard headers only.

    Raises what `open_folder` raises, ConfigError when a flag does not fit the model, and
    InputError when the model is quantized already.
    """
    layout = asked_layout(recipe)
    download = Path(recipe.download_dir) if recipe.download_dir else None
    folder = local_folder(recipe.model, revision=recipe.revision, download_dir=download)
    source = open_folder(folder)
    if source.config.get("quantization_config"):
        raise InputError(
            f"{folder}: the model is quantized already",
            hint="give the original 16-bit model, or run `mindpress convert` on this one",
        )
    stored = _stored_type(recipe, source)
    sizes = LinearSizes(source.architecture.block, _planned(source, layout), layout, stored)
    linear_bytes = _linear_bytes(recipe, sizes, source.shape.layers)
    length = min(recipe.calibration.length, source.shape.max_length)
    return QuantizationPlan(
        source=source,
        layout=layout,
        linears=sizes.linears,
        stored=stored,
        length=length,
        widths=_widths(recipe),
        linear_bytes=linear_bytes,
        bytes_before=source.checkpoint.nbytes,
        bytes_after=linear_bytes + _other_bytes(source, sizes),
        peak_memory=bound_of(peak_memory(source, recipe, length)),
        hidden_bytes=states_bytes(source, recipe, length),
        notes=tuple(_notes(recipe, source, sizes, length)),
    )


def asked_layout(recipe: Recipe) -> Layout:
    """The layout to write; ConfigError where it cannot hold what the flags ask for."""
    if recipe.group_size < 1 and recipe.group_size != WHOLE_ROW:
        raise ConfigError(
            f"--w-group-size {recipe.group_size}: must be positive, or -1 for the whole row",
            hint="use 128, 64, 32 or -1",
        )
    spec = QuantSpec(recipe.bits, recipe.group_size, recipe.symmetric)
    return written_layout(recipe.written, spec)


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


def _widths(recipe: Recipe) -> tuple[int, ...]:
    """The bits per weight that a linear can get."""
    if recipe.target_bpw is None:
        return (recipe.bits,)
    return recipe.bits, *wider_than(recipe.bits, recipe.written), IN_FLOATS


def _linear_bytes(recipe: Recipe, sizes: LinearSizes, layers: int) -> int:
    """What the linears of all blocks take, or may take."""
    least, target = layers * sizes.uniform(recipe.bits), recipe.target_bpw
    if target is None:
        return least
    weights = layers * sizes.weights
    fewest, most = 8 * least / weights, 8 * layers * sizes.uniform(IN_FLOATS) / weights
    if not fewest <= target < most:
        raise ConfigError(
            f"--target-bpw {target:g}: linears take {fewest:.4g} bits per weight with --w-bits"
            f" {recipe.bits}, scales and zeros included, and {most:g} in floats",
            hint=f"use a target from {ceil(100 * fewest) / 100:g} to below {most:g}",
        )
    return int(target * weights / 8)


def _other_bytes(source: ModelFolder, sizes: LinearSizes) -> int:
    """Of what is no weight of a linear: all of it stays in floats."""
    block = elements(block_tensors(source.architecture, source.shape)) - sizes.weights
    outer = elements(outer_tensors(source.architecture, source.shape))
    return sizes.stored.itemsize * (outer + source.shape.layers * block)


def _notes(
    recipe: Recipe,
    source: ModelFolder,
    sizes: LinearSizes,
    length: int,
) -> list[str]:
    notes = []
    if length < recipe.calibration.length:
        notes.append(f"--calib-seqlen {recipe.calibration.length} is longer than the model's "
                     f"{length} tokens; {length} is used")  # fmt: skip
    notes += [
        f"{planned.linear.name} stays in 16 bits in every layer: {planned.obstacle}"
        for planned in sizes.linears
        if planned.obstacle
    ]
    notes += sizes.layout.limits
    if source.shape.dtype == "float32" and recipe.dtype == "auto":
        notes.append("the 32-bit floats of the model are stored in 16 bits")
    return notes
