"""Compiles Triton kernels for GPUs that are not here; `triton_aot.py` starts it as a process.

Reads requests from stdin and writes what `ptxas` made of each to stdout, as JSON. It must not run
where TRITON_INTERPRET is set: kernels would be Python functions then.
"""

import importlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*?);")
LABEL = re.compile(r"^\s*(\.L_x_\d+):")


def compiled(request):
    module, name = request["function"].split(":")
    function = getattr(importlib.import_module(module), name)
    names = function.arg_names
    unknown = set(request["signature"]) | set(request["constants"])
    if unknown != set(names):
        raise SystemExit(f"{name}: {sorted(unknown ^ set(names))} missing or unknown")
    source = ASTSource(
        fn=function,
        signature={key: request["signature"].get(key, "constexpr") for key in names},
        constexprs=request["constants"],
        attrs={(names.index(key),): [["tt.divisibility", 16]] for key in request["divisible"]},
    )
    target = GPUTarget("cuda", request["capability"], 32)
    return triton.compile(source, target=target, options=request["options"])


def tool(name, *arguments):
    done = subprocess.run(
        [BINARIES / name, *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout


def disassembled(cubin):
    """Resources, and the lines of SASS."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = tool("cuobjdump", "--dump-resource-usage", file.name)
        sass = tool("nvdisasm", "-c", file.name) or tool("cuobjdump", "--dump-sass", file.name)
    return {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", usage)}, sass.splitlines()


def instructions(lines):
    """(label, opcode, target of a branch) of every line that has an instruction or a label."""
    for line in lines:
        label = LABEL.match(line)
        if label:
            yield label[1], None, None
        found = INSTRUCTION.search(line)
        if found:
            target = re.search(r"\.L_x_\d+", found[2])
            yield None, found[1], target[0] if target else None


def innermost_loops(lines):
    """The opcodes of every loop that has no loop in it, in their order."""
    opcodes, places, loops = [], {}, []
    for label, opcode, target in instructions(lines):
        if label:
            places[label] = len(opcodes)
        else:
            opcodes.append(opcode)
            if opcode.startswith("BRA") and target in places:
                loops.append((places[target], len(opcodes)))
    # A branch to itself ends every kernel.
    loops = [(begin, end) for begin, end in loops if end - begin > 1]
    inner = [
        one
        for one in loops
        if not any(one != other and one[0] <= other[0] and other[1] <= one[1] for other in loops)
    ]
    return opcodes, [opcodes[begin:end] for begin, end in inner]


def main():
    results = []
    for request in json.load(sys.stdin):
        kernel = compiled(request)
        usage, lines = disassembled(kernel.asm["cubin"])
        opcodes, loops = innermost_loops(lines)
        results.append(
            {
                "registers": usage["REG"],
                "spilled": usage["STACK"] + usage["LOCAL"],
                "shared": kernel.metadata.shared,
                "opcodes": opcodes,
                "loops": loops,
            }
        )
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
