"""What a run did: errors by layer, sizes, time and memory, as JSON; what of it stays, as a page."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mindpress import __version__
from mindpress.lite.choose import FLOATS, PLAIN, Choice
from mindpress.lite.mixture import Mixture
from mindpress.lite.plan import QuantizationPlan
from mindpress.lite.recipe import WHOLE_ROW, Recipe
from mindpress.memory import peak_bytes
from mindpress.report.chart import bar_chart
from mindpress.report.numbers import number, size
from mindpress.report.page import Section, page
from mindpress.report.table import pairs, table

LIBRARIES = ("torch", "transformers", "safetensors")
# Of this very run: on the screen and in `--json`, not in the folder, which is the same each time.
MEASURED = ("target", "seconds", "peak_memory_bytes")


@dataclass(frozen=True, slots=True)
class LayerReport:
    """A layer: which candidate was kept, and relative output errors on held-out tokens.

    `sites` are the relative errors of the linears, by the input they share.
    """

    layer: int
    method: str
    error: float
    plain_error: float
    seconds: float
    candidates: dict[str, float] = field(default_factory=dict)
    sites: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, layer: int, choice: Choice, seconds: float) -> "LayerReport":
        return cls(layer, choice.result.method, choice.error, choice.plain_error,
                   seconds, dict(choice.candidates), dict(choice.sites))  # fmt: skip

    @property
    def figures(self) -> dict[str, float]:
        """For the progress display."""
        return {"error": self.error, "plain rounding": self.plain_error, **self.sites}


@dataclass(frozen=True, slots=True)
class QuantizationReport:
    """The whole run. Sizes in bytes; `peak_memory_bytes` is of the whole process.

    `linear_bits_per_weight` is of the linears alone, scales and zeros included; `mixture` says
    which of them have more bits than others.

    `format` names the layout for people, `readers` are the programs that read it.
    """

    recipe: Recipe
    target: Path
    format: str
    readers: tuple[str, ...]
    family: str
    parameters: int
    bits_per_weight: float
    linear_bits_per_weight: float
    mixture: Mixture | None
    bytes_before: int
    bytes_after: int
    seconds: float
    peak_memory_bytes: int
    calibration_length: int
    notes: tuple[str, ...]
    layers: tuple[LayerReport, ...]
    versions: dict[str, str]

    @classmethod
    def of(
        cls, recipe: Recipe, plan: QuantizationPlan, target: Path,
        layers: list[LayerReport], seconds: float, mixture: Mixture | None = None,
    ) -> "QuantizationReport":  # fmt: skip
        widths = mixture.widths if mixture else plan.uniform
        linear_bytes = plan.sizes.mixed(widths, left_blocks(layers))
        bytes_after = plan.other_bytes + linear_bytes
        return cls(
            recipe=recipe,
            target=target,
            format=plan.layout.label,
            readers=plan.readers,
            family=plan.source.architecture.hf_class,
            parameters=plan.parameters,
            bits_per_weight=8 * bytes_after / plan.parameters,
            linear_bits_per_weight=8 * linear_bytes / (plan.sizes.weights * len(layers)),
            mixture=mixture,
            bytes_before=plan.bytes_before,
            bytes_after=bytes_after,
            seconds=seconds,
            peak_memory_bytes=peak_bytes(),
            calibration_length=plan.length,
            notes=plan.notes,
            layers=tuple(layers),
            versions={"mindpress": __version__, "python": platform.python_version()}
            | {name: version(name) for name in LIBRARIES},
        )

    @property
    def width(self) -> str:
        """Bits per weight of the linears, for people."""
        if self.mixture is None:
            return self.recipe.width
        widths = [bits for layer in self.mixture.widths for bits in layer.values()]
        average = f"{self.linear_bits_per_weight:.4g} on average"
        return f"{min(widths)} to {max(widths)} bits, {average}"

    @property
    def mean_error(self) -> float:
        """Mean of the layers' errors."""
        return sum(layer.error for layer in self.layers) / len(self.layers)

    @property
    def mean_plain_error(self) -> float:
        """The same if every layer had been rounded plainly."""
        return sum(layer.plain_error for layer in self.layers) / len(self.layers)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        means = {"mean_error": self.mean_error, "mean_plain_error": self.mean_plain_error}
        return {**asdict(self), "target": str(self.target), **means}

    def as_saved(self) -> dict[str, Any]:
        """For `report.json`: what model and settings decide, and not this very run."""
        saved = {name: value for name, value in self.as_dict().items() if name not in MEASURED}
        for layer in saved["layers"]:
            del layer["seconds"]
        return saved


def left_blocks(layers: Sequence[LayerReport]) -> tuple[int, ...]:
    """The layers that stayed in floats."""
    return tuple(layer.layer for layer in layers if layer.method == FLOATS)


def report_html(report: QuantizationReport) -> str:
    """A page for people: outcome, error of every layer beside plain rounding's, settings."""
    names = [f"layer {layer.layer}" for layer in report.layers]
    errors = {
        "kept": [layer.error for layer in report.layers],
        PLAIN: [layer.plain_error for layer in report.layers],
    }
    sites = list(dict.fromkeys(site for layer in report.layers for site in layer.sites))
    rows = [
        [layer.layer, layer.method, *(layer.sites.get(site) for site in sites)]
        for layer in report.layers
    ]
    return page(
        f"{Path(report.recipe.model).name} in {report.width}",
        [
            Section("Outcome", (pairs(_outcome(report)),)),
            Section(
                "Error of each layer",
                (bar_chart(names, errors, axis="relative output error"),),
                "|difference|² of the block's output on calibration tokens held out of the"
                " search, relative to |what the block adds|²; lower is better.",
            ),
            Section("Parts", (table(["layer", "kept", *sites], rows),)),
            *_mixed(report.mixture),
            Section("Settings", (pairs(_settings(report)),)),
        ],
        subtitle=f"mindpress {report.versions['mindpress']}, {report.family}",
    )


def _mixed(mixture: Mixture | None) -> list[Section]:
    if mixture is None:
        return []
    sites = list(mixture.widths[0])
    rows = [[layer, *widths.values()] for layer, widths in enumerate(mixture.widths)]
    names = [f"{layer} {site}" for layer, losses in enumerate(mixture.losses) for site in losses]
    losses = [loss for by_site in mixture.losses for loss in by_site.values()]
    return [
        Section("Bits per weight", (table(["layer", *sites], rows),)),
        Section(
            "Sensitivity",
            (bar_chart(names, {"loss": losses}, axis="KL divergence in nats"),),
            "How far next-token distributions move when only these linears are rounded, plainly and"
            " with the fewest bits; those that lose most for their size got more.",
        ),
    ]


def _outcome(report: QuantizationReport) -> Mapping[str, str | float]:
    return {
        "format": report.format,
        "read by": ", ".join(report.readers),
        "size before": size(report.bytes_before),
        "size after": size(report.bytes_after),
        "bits per weight": round(report.bits_per_weight, 3),
        "of linears alone": round(report.linear_bits_per_weight, 3),
        "mean error": number(report.mean_error),
        "mean error of plain rounding": number(report.mean_plain_error),
    }


def _settings(report: QuantizationReport) -> Mapping[str, str | float]:
    recipe = asdict(report.recipe)
    calibration = recipe.pop("calibration")
    used = report.recipe
    recipe |= {"format": report.format, "propagate": used.path, "refine": used.sweeps}
    recipe["search_scale"] = used.searches if used.smooths else None
    recipe["group_size"] = "whole row" if used.group_size == WHOLE_ROW else used.group_size
    settings = {name.replace("_", " "): value for name, value in recipe.items()}
    settings |= {f"calibration {name}": value for name, value in calibration.items()}
    settings["calibration length used"] = report.calibration_length
    settings |= {f"version of {name}": value for name, value in report.versions.items()}
    return {name: value for name, value in settings.items() if value is not None}
