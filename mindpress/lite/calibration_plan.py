"""A calibration that was checked against model, text, machine and output folder."""

from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import torch

from mindpress import __version__
from mindpress.calib.statistics_header import StatisticsHeader
from mindpress.checkpoint.hub import local_folder
from mindpress.checkpoint.staging import check_not_inside, check_space, check_target
from mindpress.device import choose_device
from mindpress.errors import InputError
from mindpress.events import Listener, Note, ignore
from mindpress.lite.calibration import CalibrationRun
from mindpress.lite.inputs import Tokens, draw_tokens, hidden_bytes
from mindpress.memory import bound_of
from mindpress.models.registry import describe
from mindpress.models.tensors import block_tensors, linear_shape
from mindpress.sources.folder import ModelFolder, open_folder
from mindpress.sources.opening import is_workspace

LIBRARIES = ("torch", "transformers")


@dataclass(frozen=True, slots=True)
class CalibrationRequest:
    """A run that was checked against the model, the machine and the output folder.

    `header` has no signature yet: that takes reading weights.
    """

    source: ModelFolder
    device: torch.device
    tokens: Tokens
    header: StatisticsHeader
    batch_size: int

    @property
    def nbytes(self) -> int:
        """What the statistics take on disk."""
        return torch.float32.itemsize * sum(map(prod, self.header.shapes().values()))

    @property
    def peak_memory(self) -> int:
        """A bound in bytes on what the run adds to the bare process: one block in float32, one of
        its linears, a batch of activations with what is counted of them, and the hidden states.
        """
        shape, architecture = self.source.shape, self.source.architecture
        shapes = [prod(size) for size in block_tensors(architecture, shape).values()]
        activations = 3 * shape.hidden + 5 * shape.inner + 2 * shape.heads * shape.head_dim
        batch = min(self.batch_size, self.header.samples) * self.header.length * activations
        block = torch.float32.itemsize * (sum(shapes) + max(shapes) + batch)
        table = shape.vocab * shape.hidden * self.source.embedding_type.itemsize
        return bound_of(max(block, table) + hidden_bytes(self.source, self.tokens))

    def as_dict(self) -> dict[str, Any]:
        """For `--dry-run --json`."""
        header = self.header
        return {
            "model": str(self.source.folder),
            "family": header.family,
            "layers": header.layers,
            "kv_heads": header.kv_heads,
            "head_dim": header.head_dim,
            "linears": list(header.linears),
            "samples": header.samples,
            "calibration_length": header.length,
            "bytes": self.nbytes,
            "peak_memory_bytes": self.peak_memory,
        }


def open_model(run: CalibrationRun) -> ModelFolder:
    """The folder of the model, in floats or in AWQ codes; reads no weights."""
    download = Path(run.download_dir) if run.download_dir else None
    folder = local_folder(run.model, revision=run.revision, download_dir=download)
    if is_workspace(folder):
        raise InputError(
            f"{folder}: is a workspace, which is not calibrated",
            hint="give the folder it was converted from",
        )
    source = open_folder(folder)
    if source.shape.head_dim % 2:
        raise InputError(
            f"{folder}: heads of {source.shape.head_dim} channels; rotary embedding turns pairs",
            hint="correct head_dim in config.json",
        )
    return source


def check_calibration(
    run: CalibrationRun, target: Path, *, overwrite: bool = False, listener: Listener = ignore
) -> CalibrationRequest:
    """Everything that can be checked without reading weights; writes nothing.

    Raises what is wrong with the output folder, the model, the tokenizer or the calibration text,
    and ResourceError when the disk is too full.
    """
    check_target(target, "statistics", overwrite=overwrite)
    device, source, wanted = choose_device(run.device), open_model(run), run.calibration
    check_not_inside(target, source.folder)
    check_not_inside(source.folder, target)
    length = min(wanted.length, source.shape.max_length)
    if length < wanted.length:
        listener(Note(f"--calib-seqlen {wanted.length} is longer than the model's {length} tokens;"
                      f" {length} is used", "warning"))  # fmt: skip
    trust = run.trust_remote_code
    tokens = draw_tokens(source, wanted, length, listener, trust_remote_code=trust)
    request = CalibrationRequest(
        source, device, tokens, _header(run, source, length), wanted.batch_size
    )
    check_space(target, request.nbytes + hidden_bytes(source, tokens))
    return request


def _header(run: CalibrationRun, source: ModelFolder, length: int) -> StatisticsHeader:
    shape, architecture = source.shape, source.architecture
    block = describe(architecture.runs_as or architecture.hf_class).block
    linears: dict[str, tuple[int, int]] = {}
    for linear in () if run.cache_only else block.linears:
        outputs, inputs = linear_shape(linear, shape)
        linears[linear.name] = (inputs, outputs)
    return StatisticsHeader(
        model=run.model,
        signature="",
        family=architecture.hf_class,
        layers=shape.layers,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        dataset=run.calibration.dataset,
        samples=run.calibration.samples,
        length=length,
        seed=run.calibration.seed,
        linears=linears,
        clamped=(),
        versions={"mindpress": __version__} | {name: version(name) for name in LIBRARIES},
    )
