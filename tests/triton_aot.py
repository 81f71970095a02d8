"""What the compiler for GPUs makes of a Triton kernel, on a machine without one.

variant = Variant("mindpress.kernels.x.kernel:name", 90, pointers={"x": "fp16"},
                  integers=("rows",), constants={"BLOCK": 128}, warps=4, stages=3)
(made,) = compile_all([variant])
made.registers, made.spilled, made.count("HMMA"), made.per_item(128 * 128)
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Of a program of each capability: bytes of shared memory it can ask for.
SHARED_LIMIT = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024}
SHARED_LIMIT |= {100: 227 * 1024, 120: 99 * 1024}
CAPABILITIES = tuple(SHARED_LIMIT)


@dataclass(frozen=True)
class Variant:
    """A kernel with everything that is fixed when it is compiled.

    `pointers` have the type they point to; they and `integers` named in `divisible` (default: all
    pointers) are multiples of 16. `floats` are float32 arguments.
    """

    function: str
    capability: int
    pointers: Mapping[str, str]
    constants: Mapping[str, object]
    integers: Sequence[str] = ()
    floats: Sequence[str] = ()
    divisible: Sequence[str] | None = None
    warps: int = 4
    stages: int = 3
    options: Mapping[str, object] = field(default_factory=dict)

    def request(self) -> dict[str, object]:
        signature = {name: f"*{kind}" for name, kind in self.pointers.items()}
        signature |= dict.fromkeys(self.integers, "i32") | dict.fromkeys(self.floats, "fp32")
        divisible = self.pointers if self.divisible is None else self.divisible
        return {
            "function": self.function,
            "capability": self.capability,
            "signature": signature,
            "constants": dict(self.constants),
            "divisible": list(divisible),
            "options": {"num_warps": self.warps, "num_stages": self.stages, **self.options},
        }


@dataclass(frozen=True)
class Compiled:
    """Registers of a thread, bytes it spills, bytes of shared memory; all opcodes in order, and
    those of each innermost loop (a kernel that is pipelined may have several)."""

    variant: Variant
    registers: int
    spilled: int
    shared: int
    opcodes: list[str]
    loops: list[list[str]]

    def count(self, *prefixes: str) -> int:
        """How many instructions begin with one of `prefixes`: `HMMA`, `LDG.E.128`, `LDGSTS`."""
        return sum(opcode.startswith(prefixes) for opcode in self.opcodes)

    @property
    def main_loop(self) -> list[str]:
        """The longest innermost loop."""
        return max(self.loops, key=len)

    def per_item(self, items: int) -> float:
        """Instructions of a lane per item, where a turn of the main loop handles `items`."""
        return len(self.main_loop) * 32 * self.variant.warps / items


def compile_all(variants: Sequence[Variant]) -> list[Compiled]:
    """All of them in one process; about half a second each."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_DEFAULT_FP_FUSION"] = "1"
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("triton_aot_compile.py"))],
        input=json.dumps([variant.request() for variant in variants]),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    made = json.loads(done.stdout)
    return [Compiled(variant, **one) for variant, one in zip(variants, made, strict=True)]
