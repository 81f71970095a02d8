"""Plain rounding: `python -m benchmarks.quality_plain MODEL TARGET [--bits BITS]`.

Every linear of the blocks is rounded to nearest in groups of 128, asymmetric, and nothing else is
done: `mindpress lite auto-awq` also tries to smooth. The folder keeps floats.
"""

import argparse
from pathlib import Path

from safetensors.torch import load_file, save_file

from mindpress.checkpoint.companions import copy_companions
from mindpress.formats.quantized import QuantSpec
from mindpress.lite.rounding import rounded
from mindpress.sources.folder import open_folder


def round_plainly(model: Path, target: Path, spec: QuantSpec) -> None:
    """Write a float folder whose linears have the values that codes of `spec` stand for."""
    target.mkdir(parents=True)
    source = open_folder(model)
    linears = {linear.name for linear in source.architecture.block.linears}
    tensors = load_file(model / "model.safetensors")
    for name, tensor in tensors.items():
        if any(name.endswith(f"{linear}.weight") for linear in linears):
            tensors[name] = rounded(tensor, spec).to(tensor.dtype)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text((model / "config.json").read_text())
    copy_companions(model, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--bits", type=int, default=4)
    args = parser.parse_args()
    round_plainly(args.model, args.target, QuantSpec(bits=args.bits))


if __name__ == "__main__":
    main()
