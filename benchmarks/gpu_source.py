"""A Llama with random weights, drawn where they are computed with: no files, no copies."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu_machine import Bench
from mindpress.engine.config import EngineConfig, QuantPolicy
from mindpress.engine.loader import load_decoder
from mindpress.engine.opening import runtime_of
from mindpress.engine.runtime import Runtime
from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from mindpress.models.description import Architecture, Role
from mindpress.models.llama import LLAMA
from mindpress.models.shape import ModelShape
from mindpress.sources.source import LinearWeight

WHAT = "random weights made in the GPU's memory: float16 normal numbers, or random w4 g128 codes"
SPEC = QuantSpec(4, 128)
OUTER = 1 << 20  # seeds of layers are smaller


@dataclass(frozen=True, slots=True)
class Load:
    """Prompts of so many tokens, and new ones of each; `sequences` of them at once."""

    sequences: int
    prompt: int
    new: int


@dataclass(frozen=True, slots=True)
class RandomSource:
    """A `ModelSource` whose tensors are drawn on `device` when they are asked for."""

    shape: ModelShape
    spec: QuantSpec | None
    device: torch.device

    @property
    def activations(self) -> None:
        """Nothing that linears read is rounded."""

    @property
    def architecture(self) -> Architecture:
        return LLAMA

    @property
    def tokenizer_folder(self) -> Path:
        return Path()

    def linears(self, layer: int) -> dict[Role, LinearWeight]:
        """The same each time it is asked."""
        torch.manual_seed(layer)
        return {linear.roles[0]: LinearWeight(self._weight(linear.roles[0]))
                for linear in LLAMA.block.linears}  # fmt: skip

    def spec_of(self, layer: int, role: Role) -> QuantSpec | None:  # noqa: ARG002
        """That of all."""
        return self.spec

    def norms(self, layer: int) -> dict[str, Tensor]:  # noqa: ARG002 - named by the protocol
        """Ones."""
        ones = torch.ones(self.shape.hidden, device=self.device)
        return {"attention_norm": ones, "mlp_norm": ones}

    def embedding(self) -> Tensor:
        """[vocab, hidden]"""
        torch.manual_seed(OUTER)
        return self._normal(self.shape.vocab, self.shape.hidden)

    def final_norm(self) -> Tensor:
        """[hidden]"""
        return torch.ones(self.shape.hidden, device=self.device)

    def head(self) -> Tensor:
        """[vocab, hidden]"""
        torch.manual_seed(OUTER + 1)
        return self._normal(self.shape.vocab, self.shape.hidden)

    def _weight(self, role: Role) -> Tensor | QuantizedWeight:
        outputs, inputs = self.shape.rows[role], self.shape.columns[role]
        if self.spec is None:
            return self._normal(outputs, inputs)
        codes = torch.randint(0, 16, (outputs, inputs), dtype=torch.uint8, device=self.device)
        groups = outputs, inputs // self.spec.group_size
        # Codes are uniform: 4.6 is what they spread around the zero, which is the middle one.
        scales = torch.full(groups, inputs**-0.5 / 4.6, device=self.device)
        zeros = torch.full(groups, 8, dtype=torch.uint8, device=self.device)
        return QuantizedWeight(codes, scales, zeros, self.spec)

    def _normal(self, outputs: int, inputs: int) -> Tensor:
        drawn = torch.randn(outputs, inputs, dtype=torch.float16, device=self.device)
        return drawn.mul_(inputs**-0.5)


def opened(
    bench: Bench, shape: ModelShape, spec: QuantSpec | None, load: Load, policy: QuantPolicy = 0
) -> Runtime:
    """A runtime of our GPU kernels in float16, with room for `load`."""
    config = EngineConfig(
        "cuda" if bench.device.type == "cuda" else "cpu",
        "float16",
        quant_policy=policy,
        kernels="triton",
        max_batch_size=load.sequences,
        session_len=load.prompt + load.new,
    )
    return runtime_of(load_decoder(RandomSource(shape, spec, bench.device), config), config)
