"""Quantize a model with auto-round (SignRound) on CPU, on given calibration tokens.

Run with the Python that has `autoround-requirements.txt`, not with mindpress's own. Asymmetric,
groups of 128, saved as AWQ, which auto-round recommends for 4 bits; 200 iterations and everything
else are its default, but: `amp`, which is bfloat16 on CPUs, is off, for float32 is faster there and
more exact; so is torch.compile, whose C++ compiler would take longer than it saves here.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from auto_round import AutoRound  # pyright: ignore[reportMissingImports]
from driving import drive, parser_of
from transformers import AutoModelForCausalLM, AutoTokenizer

BATCH = 8


def quantize(tokens: torch.Tensor, args: argparse.Namespace) -> None:
    """Load, quantize, save."""
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    rounding = AutoRound(
        model,
        AutoTokenizer.from_pretrained(args.model),
        bits=4,
        group_size=128,
        sym=False,
        dataset=list(tokens.split(BATCH)),
        seqlen=tokens.shape[1],
        nsamples=tokens.shape[0],
        batch_size=BATCH,
        device_map="cpu",
        amp=False,
        enable_torch_compile=False,
    )
    # It makes a folder named after the model, which moves to where it was asked for.
    with TemporaryDirectory(dir=args.out.parent) as folder:
        rounding.quantize_and_save(folder, format="auto_awq")
        (saved,) = Path(folder).iterdir()
        saved.rename(args.out)


def main() -> None:
    args = parser_of(__doc__).parse_args()
    drive(args, ("auto-round",), lambda tokens: quantize(tokens, args))


if __name__ == "__main__":
    main()
