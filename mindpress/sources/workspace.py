"""A TurboMind workspace of LMDeploy 0.1 to 0.6, joined over its ranks and back in roles."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from mindpress.checkpoint.manifest import check_sizes
from mindpress.errors import InputError, MindpressError
from mindpress.formats.activations import Activations
from mindpress.formats.quantized import QuantSpec
from mindpress.formats.ranks import Part, reorder
from mindpress.formats.rotary import halves_from_pairs
from mindpress.formats.turbomind import decode, sizes
from mindpress.formats.turbomind_config import WorkspaceConfig
from mindpress.formats.turbomind_files import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    NORMS,
    Matrix,
    file_name,
    join,
    matrices,
    outer_count,
    outer_name,
    rank_size,
    weight_files,
)
from mindpress.formats.turbomind_text import read_config
from mindpress.models.description import Architecture, Role
from mindpress.models.llama import LLAMA
from mindpress.models.shape import ModelShape
from mindpress.sources.source import LinearWeight
from mindpress.sources.workspace_checks import CONFIGS, check_config, check_files, problems_of

FOLDER = "triton_models"
# Real ones have 2 KiB and lines of 40 letters. The parsers of both formats take seconds for a few
# times as much, and configparser the square of the length of a line.
MOST_CONFIG_BYTES = 2**14
LONGEST_LINE = 1000
DTYPES = {"qweight": torch.int32, "scales": torch.float16, "zeros": torch.float16,
          "scales_zeros": torch.float16, "float16": torch.float16,
          "bfloat16": torch.bfloat16}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Workspace:
    """A checked workspace: every file is there and has the size that its config asks for.

    Its mathematics are Llama's, whatever family it was converted from. `problems` are what a user
    should know and what does not keep it from being read.
    """

    folder: Path
    config: WorkspaceConfig
    shape: ModelShape
    problems: tuple[str, ...] = ()

    @property
    def architecture(self) -> Architecture:
        return LLAMA

    @property
    def spec(self) -> QuantSpec | None:
        return self.config.spec

    def spec_of(self, layer: int, role: Role) -> QuantSpec | None:  # noqa: ARG002 - as every source
        return self.spec

    @property
    def activations(self) -> Activations | None:
        return None

    @property
    def tokenizer_folder(self) -> Path:
        return self.folder / FOLDER / "tokenizer"

    @property
    def weights(self) -> Path:
        """The folder of the weight files and the config."""
        return self.folder / FOLDER / "weights"

    @property
    def nbytes(self) -> int:
        """Bytes of all weight files."""
        return sum(weight_files(self.config).values())

    def linears(self, layer: int) -> dict[Role, LinearWeight]:
        weights: dict[Role, Part] = {}
        biases: dict[Role, Part] = {}
        for matrix in matrices(self.config):
            weights |= self._joined(layer, matrix)
            if matrix.biased and self.config.attn_bias:
                biases |= self._biases(layer, matrix)
        return {
            role: LinearWeight(
                self._ordered(weight, role),
                cast(Tensor, self._ordered(biases[role], role)) if role in biases else None,
            )
            for role, weight in weights.items()
        }

    def norms(self, layer: int) -> dict[str, Tensor]:
        return {field: self._floats(f"layers.{layer}.{name}") for field, name in NORMS.items()}

    def embedding(self) -> Tensor:
        count = outer_count(self.config)
        pieces = [
            self._floats(outer_name(EMBEDDING, rank, self.config)).view(
                self.config.padded_vocab, self.config.hidden // count
            )
            for rank in range(count)
        ]
        return torch.cat(pieces, dim=1)[: self.config.vocab]

    def head(self) -> Tensor:
        names = [outer_name(HEAD, r, self.config) for r in range(outer_count(self.config))]
        rows = torch.cat([self._floats(name).view(-1, self.config.hidden) for name in names])
        return rows[: self.config.vocab]

    def final_norm(self) -> Tensor:
        return self._floats(FINAL_NORM)

    def _joined(self, layer: int, matrix: Matrix) -> dict[Role, Part]:
        config = self.config
        outputs, inputs = rank_size(matrix, config)
        ranks: list[Part] = []
        for rank in range(config.tp):
            endings = sizes(outputs, inputs, config.layout, config.spec)
            names = {ending: file_name(layer, matrix, rank, ending) for ending in endings}
            files = {ending: self._read(name) for ending, name in names.items()}
            try:
                ranks.append(decode(files, outputs, inputs, config.spec))
            except InputError as error:
                damaged = self._path(next(reversed(names.values())))
                raise InputError(f"{damaged}: {error}", hint="convert the model again") from None
        return join(matrix, ranks, self.shape.rows)

    def _biases(self, layer: int, matrix: Matrix) -> dict[Role, Part]:
        ranks: list[Part] = [
            self._floats(file_name(layer, matrix, rank, "bias")) for rank in range(self.config.tp)
        ]
        if matrix.split == "inputs":
            return {matrix.roles[0]: ranks[0]}
        return join(matrix, ranks, self.shape.rows)

    def _ordered(self, part: Part, role: Role) -> Part:
        """Query and key rows back in Hugging Face's order."""
        if role not in ("query", "key"):
            return part
        heads = self.config.heads if role == "query" else self.config.kv_heads
        return reorder(part, halves_from_pairs(heads, self.config.head_dim, self.config.rotary_dim))

    def _floats(self, name: str) -> Tensor:
        return self._read(name)

    def _read(self, name: str) -> Tensor:
        """The values of a file, flat."""
        ending = name.rsplit(".", 1)[1]
        dtype = DTYPES[ending if ending in DTYPES else self.config.dtype]
        try:
            data = np.fromfile(self._path(name), dtype=np.uint8)
        except OSError as error:
            raise InputError(f"{self._path(name)}: {error.strerror}") from None
        return torch.from_numpy(data).view(dtype)

    def _path(self, name: str) -> Path:
        return self.weights / name


def open_workspace(folder: Path) -> Workspace:
    """Open and check a workspace. Reads the config and file sizes, no weights.

    Raises InputError when the config cannot be read or contradicts itself, and when files are
    missing or have another size than the config asks for.
    """
    weights = folder / FOLDER / "weights"
    config = read_workspace_config(folder)
    check_config(weights, config)
    check_files(weights, config)
    check_sizes(folder)
    return Workspace(folder, config, config.shape, problems_of(weights, config))


def read_workspace_config(folder: Path) -> WorkspaceConfig:
    """The config of a workspace, or InputError that names the file and the key."""
    weights = folder / FOLDER / "weights"
    file = next((weights / name for name in CONFIGS if (weights / name).is_file()), None)
    if file is None:
        raise InputError(
            f"{weights}: no {' or '.join(CONFIGS)}", hint="is this a TurboMind workspace?"
        )
    try:
        if file.stat().st_size > MOST_CONFIG_BYTES:
            raise InputError(f"larger than {MOST_CONFIG_BYTES >> 10} KiB")
        text = file.read_text(encoding="utf-8")
        if max(map(len, text.splitlines()), default=0) > LONGEST_LINE:
            raise InputError(f"a line is longer than {LONGEST_LINE} letters")
        return read_config(text, "yaml" if file.suffix == ".yaml" else "ini")
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: {error}") from None
    except MindpressError as error:
        raise InputError(f"{file}: {error}", hint=error.hint) from None
