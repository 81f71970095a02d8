"""Quantize a model with llm-compressor on CPU, on given calibration tokens: GPTQ or AWQ.

Run with the Python that has `llmcompressor-requirements.txt`, not with mindpress's own. Scheme
W4A16_ASYM, which is 4 bits, asymmetric, groups of 128; everything else is llm-compressor's default
(GPTQ: damp 0.01, static order by activations; AWQ: `duo_scaling`, 20 steps), but: `dtype` is
float32, not the model's float16, and batches have 8 samples, both of which are faster on CPUs.
"""

import argparse

import torch
from datasets import Dataset  # pyright: ignore[reportMissingImports]
from driving import drive, parser_of
from llmcompressor import oneshot  # pyright: ignore[reportMissingImports]
from llmcompressor.modifiers.gptq import GPTQModifier  # pyright: ignore[reportMissingImports]
from llmcompressor.modifiers.quantization import (  # pyright: ignore[reportMissingImports]
    QuantizationModifier,
)
from llmcompressor.modifiers.transform.awq import (  # pyright: ignore[reportMissingImports]
    AWQModifier,
)
from llmcompressor.pipelines.cache import (  # pyright: ignore[reportMissingImports]
    IntermediatesCache,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

SCHEME = {"scheme": "W4A16_ASYM", "targets": ["Linear"], "ignore": ["lm_head"]}


def quantize(tokens: torch.Tensor, args: argparse.Namespace) -> None:
    """Load, quantize, save."""
    # AWQ pins its cache unasked, which fails without a GPU: "Cannot access accelerator device".
    IntermediatesCache.pin_memory = lambda *_: None
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype))
    recipes = {
        "gptq": [GPTQModifier(**SCHEME)],
        "awq": [AWQModifier(), QuantizationModifier(**SCHEME)],
    }
    rows = {"input_ids": tokens.tolist(), "attention_mask": torch.ones_like(tokens).tolist()}
    oneshot(
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(args.model),
        dataset=Dataset.from_dict(rows),
        recipe=recipes[args.method],
        num_calibration_samples=tokens.shape[0],
        max_seq_length=tokens.shape[1],
        batch_size=args.batch_size,
    )
    model.save_pretrained(args.out, save_compressed=True)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--method", choices=["gptq", "awq"], default="gptq")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()
    drive(args, ("llmcompressor", "compressed-tensors"), lambda tokens: quantize(tokens, args))


if __name__ == "__main__":
    main()
