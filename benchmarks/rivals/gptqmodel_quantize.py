"""Quantize a model with GPTQModel's GPTQ on CPU, on given calibration tokens.

Run with the Python that has `gptqmodel-requirements.txt`, not with mindpress's own. Asymmetric,
groups of 128; everything else is GPTQModel's default (damp 0.05, `act_group_aware`), but:
`dtype`, which is bfloat16 on CPUs and the model's own on GPUs, is float32, which is faster on CPUs
and as exact.
"""

import argparse
import os

# Its default is half of the cores; with one worker it stops: "requests 2 workers but parent 'cpu'
# only has 1".
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")

import torch
from driving import drive, parser_of
from gptqmodel import GPTQModel, QuantizeConfig  # pyright: ignore[reportMissingImports]

BATCH = 8


def quantize(tokens: torch.Tensor, args: argparse.Namespace) -> None:
    """Load, quantize, save."""
    config = QuantizeConfig(bits=4, group_size=128, sym=False)
    model = GPTQModel.load(str(args.model), config, device="cpu", dtype=getattr(torch, args.dtype))
    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in tokens]
    model.quantize(rows, batch_size=BATCH)
    model.save(str(args.out))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    drive(args, ("gptqmodel",), lambda tokens: quantize(tokens, args))


if __name__ == "__main__":
    main()
