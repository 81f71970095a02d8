"""Run a recipe over a model, one decoder block at a time."""

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mindpress import __version__
from mindpress.calib.batches import saved_sizes
from mindpress.calib.stream import BlockStream
from mindpress.checkpoint.companions import copy_companions
from mindpress.checkpoint.disk import disk_errors
from mindpress.checkpoint.journal import Journal, fingerprint
from mindpress.checkpoint.staging import (
    StagedFolder,
    check_not_inside,
    check_space,
    check_target,
)
from mindpress.checkpoint.writer import ShardWriter, parse_size
from mindpress.device import choose_device, compute_type
from mindpress.events import Advanced, Finished, Listener, Note, Started, ignore
from mindpress.lite.card import model_card
from mindpress.lite.hidden_states import Followed, HiddenStates, check_kept, first_states
from mindpress.lite.inputs import check_weights, draw_tokens, hidden_bytes, input_files
from mindpress.lite.mixture import Mixture
from mindpress.lite.output import block_output, output_config, output_names
from mindpress.lite.plan import QuantizationPlan, asked_layout, plan_quantization
from mindpress.lite.recipe import Recipe
from mindpress.lite.report import LayerReport, QuantizationReport, left_blocks, report_html
from mindpress.lite.run_notes import compensation_of, notes_on, told_few
from mindpress.lite.sensitivity import Measuring, Resumption, measure_sensitivity, mixture_of
from mindpress.lite.sensitivity_file import Kept, KeptSensitivity, load_measuring
from mindpress.lite.task import BlockTask
from mindpress.lite.walk import Walk, observed_tokens
from mindpress.lite.walk_int8 import Int8Walk
from mindpress.memory import give_back, return_large_blocks
from mindpress.models.tensors import outer_tensors


@dataclass(frozen=True, slots=True)
class Request:
    """A recipe that was checked against the model, the machine and the output folder."""

    plan: QuantizationPlan
    device: torch.device
    tokens: Int[Tensor, "samples tokens"]
    max_shard_bytes: int


def check_request(
    recipe: Recipe, target: Path, *, overwrite: bool = False, listener: Listener = ignore
) -> Request:
    """Everything that can be checked without reading weights; writes nothing.

    Raises what is wrong with the output folder, the model, the flags, the tokenizer or the
    calibration text, and ResourceError when the disk is too full.
    """
    limit, device = _check_flags(recipe)
    check_target(target, "model", overwrite=overwrite)
    plan = plan_quantization(recipe)
    check_not_inside(target, plan.source.folder)
    for note in plan.notes:
        listener(Note(note, "warning"))
    tokens = draw_tokens(
        plan.source,
        recipe.calibration,
        plan.length,
        listener,
        trust_remote_code=recipe.trust_remote_code,
    )
    few = told_few(recipe, plan, observed_tokens(tokens))
    if few:
        listener(Note(few, "warning"))
    states = hidden_bytes(plan.source, tokens)
    # Spilled states, and of the followed path those kept after this block and after the last.
    copies = {"original": 1, "quantized": 3, "asymmetric": 4}[recipe.path]
    check_space(target, plan.bytes_after + copies * states)
    return Request(plan, device, tokens, limit)


def quantize_model(
    recipe: Recipe, target: Path, *, overwrite: bool = False, listener: Listener = ignore
) -> QuantizationReport:
    """Write the quantized model to `target` as a Hugging Face folder in the recipe's format.

    Everything is checked before the first block. An interrupted run leaves a hidden folder
    beside `target`; the same call goes on from it, and with `overwrite` another starts afresh. Peak
    memory, beside the hidden states of the calibration set (two such sets with asymmetric
    calibration): one block in float32 with X^T X of its inputs and its codes, or the block as it is
    stored with three matrices of the size of its widest X^T X.
    """
    started = time.monotonic()
    return_large_blocks()
    _check_flags(recipe)
    with StagedFolder(target, "model", overwrite=overwrite) as staged:
        request = check_request(recipe, target, overwrite=overwrite, listener=listener)
        run = _Run(recipe, request, staged)
        layers = staged.resumed(lambda: run.resume(listener))
        check_weights(request.plan.source, listener)
        run.choose_widths(listener)
        with disk_errors(staged.path):
            run.blocks(layers, listener)
            report = run.finish(target, layers, time.monotonic() - started)
        staged.commit()
    for note in notes_on(recipe, report):
        listener(note)
    listener(Finished(report.seconds))
    return report


class _Run:
    """The state of one run: what is written, and the hidden states before the next block."""

    def __init__(self, recipe: Recipe, request: Request, staged: StagedFolder) -> None:
        self.recipe, self.plan, self.tokens = recipe, request.plan, request.tokens
        self.staged, self.device, plan = staged, request.device, request.plan
        self.folder = staged.path
        self.stream = BlockStream(plan.source, self.device, compute_type(self.device, plan.stored))
        self.writer = ShardWriter(self.folder, output_names(plan), request.max_shard_bytes)
        tokens = self.tokens.numpy().tobytes()
        self.journal = Journal(
            staged.aside, fingerprint(__version__, recipe, tokens, files=input_files(plan.source))
        )
        self.task = BlockTask(
            block=self.stream.runs.block,
            shape=plan.source.shape,
            spec=plan.spec,
            quantized=_quantized_names(plan, self.stream),
            norm_offset=plan.source.architecture.norm_offset,
            stored=plan.stored,
            device=self.device,
            compensation=compensation_of(recipe, observed_tokens(self.tokens)),
            smooths=recipe.smooths,
        )
        self.measured: Measuring | None = None
        self.mixture: Mixture | None = None
        self.followed: Followed | None = None
        self.batch_sizes: list[int] = []  # of every finished layer

    def choose_widths(self, listener: Listener) -> None:
        """Find the bits of every site, where the recipe leaves a choice."""
        plan = self.plan
        if len(plan.widths) == 1:
            return
        kept = KeptSensitivity(self.staged.aside, self._save_measured)
        if self.mixture is None:
            losses = measure_sensitivity(
                self.stream, self.task, self.tokens, plan.widths, listener,
                Resumption(self.measured, kept.keep),
            )  # fmt: skip
            self.mixture = mixture_of(plan.sizes, plan.widths, losses, plan.linear_bytes)
            self._save([], None)
        self.measured = None
        kept.forget()
        self.task = replace(self.task, widths=self.mixture.widths)

    def blocks(self, layers: list[LayerReport], listener: Listener) -> None:
        """Quantize and write every block that is not in `layers` yet, and add it to them."""
        recipe, earlier = self.recipe, len(layers)
        if earlier == len(self.stream):
            return
        states = first_states(self.stream, self.tokens, self.staged.aside, recipe.path)
        states.load(earlier, self.followed)
        walk = _walk(recipe, self.task, states)
        listener(Started("quantize", len(self.stream)))
        for index in range(len(self.stream)):
            if index < earlier:
                walk.batches.size = self.batch_sizes[index]
                with self.stream.block(index) as block:
                    walk.repeat(block)
                listener(Advanced(index + 1, "done in an earlier run"))
                continue
            layers.append(self._block(index, walk, listener))
            self.batch_sizes.append(walk.batches.size)
            self._save(layers, states.save(index + 1))
            states.forget(index)
            listener(Advanced(index + 1, layers[-1].method, layers[-1].figures))

    def _save(self, layers: list[LayerReport], followed: Followed | None) -> None:
        """Everything that it takes to go on after these layers is on the disk when this returns."""
        self.writer.sync()
        done = [asdict(layer) for layer in layers]
        mixture = asdict(self.mixture) if self.mixture else None
        state = {"writer": self.writer.state, "layers": done, "followed": followed}
        sizes = {"batch_sizes": self.batch_sizes}
        self.journal.save({**state, **sizes, "mixture": mixture})

    def _save_measured(self, kept: Kept) -> None:
        """The same, for a run that still measures sensitivities."""
        self.journal.save({"measured": kept})

    def _block(self, index: int, walk: Walk, listener: Listener) -> LayerReport:
        """Quantize and write one; its codes are let go before the next begins."""
        began = time.monotonic()
        with self.stream.block(index) as block:
            choice = walk.quantize(block)
        for note in choice.result.notes:
            listener(Note(f"{self.plan.source.architecture.layer(index)}: {note}"))
        for name, tensor in block_output(self.plan, self.stream.runs, index, choice.result):
            self.writer.write(name, tensor)
        give_back()
        return LayerReport.of(index, choice, time.monotonic() - began)

    def finish(self, target: Path, layers: list[LayerReport], seconds: float) -> QuantizationReport:
        """Write what is left: embedding, head, companions, config, report, model card."""
        source = self.plan.source
        for name in outer_tensors(source.architecture, source.shape):
            self.writer.write(name, source.checkpoint.tensor(name).to(self.plan.stored))
        self.writer.finish()
        copy_companions(source.folder, self.folder)
        widths = self.mixture.widths if self.mixture else self.plan.uniform
        config = output_config(self.plan, widths, left_blocks(layers))
        _write_json(self.folder / "config.json", config)
        report = QuantizationReport.of(
            self.recipe, self.plan, target, layers, seconds, self.mixture
        )
        _write_json(self.folder / "report.json", report.as_saved())
        (self.folder / "report.html").write_text(report_html(report), encoding="utf-8")
        (self.folder / "README.md").write_text(model_card(report), encoding="utf-8")
        return report

    def resume(self, listener: Listener) -> list[LayerReport]:
        """The layers that an earlier run finished; refuses one with other settings."""
        saved = self.journal.load()
        if saved is None:
            self.staged.clear_output()
            return []
        try:
            if "measured" in saved:
                self.measured = load_measuring(self.staged.aside, saved["measured"])
                listener(Note(f"measuring goes on after layer {self.measured.done}"))
                return []
            layers = [LayerReport(**layer) for layer in saved["layers"]]
            mixture = Mixture.load(saved["mixture"]) if saved["mixture"] else None
            sizes = saved_sizes(saved["batch_sizes"], len(layers))
            check_kept(self.staged.aside, len(layers), saved["followed"])
            self.writer.resume(saved["writer"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise self.journal.damaged(error) from None
        # Last: what is refused is started afresh with this object.
        self.mixture, self.batch_sizes, self.followed = mixture, sizes, saved["followed"]
        done = f"after layer {len(layers)}" if layers else "with the sensitivities"
        listener(Note(f"going on {done} of an interrupted run"))
        return layers


def _check_flags(recipe: Recipe) -> tuple[int, torch.device]:
    """Bytes of a shard, and where to compute; ConfigError for what no model could have."""
    asked_layout(recipe)
    return parse_size(recipe.max_shard_size), choose_device(recipe.device)


def _walk(recipe: Recipe, task: BlockTask, states: HiddenStates) -> Walk:
    batch_size = recipe.calibration.batch_size
    if recipe.algorithm == "smooth_quant":
        return Int8Walk(task, states, batch_size)
    return Walk(task, states, batch_size, search=recipe.searches)


def _quantized_names(plan: QuantizationPlan, stream: BlockStream) -> frozenset[str]:
    """Linears to quantize, under the names of the class that runs the block."""
    roles = {role for p in plan.linears if not p.obstacle for role in p.linear.roles}
    return frozenset(
        linear.name for linear in stream.runs.block.linears if set(linear.roles) <= roles
    )


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
