"""Quantize a model with AutoAWQ on CPU, on given calibration tokens, and say how long it took.

Run with the Python that has `autoawq-requirements.txt` installed, not with mindpress's own.
Everything but the calibration data is AutoAWQ's default: 4 bits, asymmetric, `duo_scaling` and
`apply_clip` on. The result is AutoAWQ's "gemm" folder with the tokenizer of the model beside it.
"""

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from awq import AutoAWQForCausalLM  # pyright: ignore[reportMissingImports]
from awq.quantize.quantizer import AwqQuantizer  # pyright: ignore[reportMissingImports]
from safetensors.torch import load_file

TOKENIZER_FILES = (
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
)


def copy_tensors(module: torch.nn.Module, state: dict[str, torch.Tensor], *_: object) -> None:
    """Replace the tensors of a state dict by copies."""
    del module
    state.update({name: tensor.clone() for name, tensor in state.items()})


class CpuAwqQuantizer(AwqQuantizer):
    """AutoAWQ's quantizer with the scale search made correct on CPU.

    The search saves the weights as `{k: v.cpu()}`, scales them in place, and restores what it
    saved. On a GPU the saved tensors are copies; on CPU they are the weights themselves, so the
    first candidate's scales stay in the weights for good. Saving copies gives what a GPU gives.
    """

    def _compute_best_scale(
        self,
        x: torch.Tensor,
        w_mean: torch.Tensor,
        x_mean: torch.Tensor,
        module2inspect: torch.nn.Module,
        *args: Any,
    ) -> torch.Tensor:
        handle = module2inspect.register_state_dict_post_hook(copy_tensors)
        try:
            return super()._compute_best_scale(x, w_mean, x_mean, module2inspect, *args)
        finally:
            handle.remove()


def config_for_transformers_4(config: dict[str, Any]) -> dict[str, Any]:
    """The same config as transformers 4 spells it: `torch_dtype`, `rope_theta`, `rope_scaling`."""
    config = dict(config)
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    if "rope_parameters" in config:
        rope = dict(config.pop("rope_parameters"))
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else rope
    return config


def link_model(model: Path, folder: Path) -> None:
    """Fill `folder` with links to the model's files and a config that transformers 4 reads."""
    for file in model.iterdir():
        if file.name != "config.json":
            (folder / file.name).symlink_to(file)
    config = json.loads((model / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config_for_transformers_4(config), indent=2))


def copy_tokenizer(model: Path, out: Path) -> None:
    """Copy the tokenizer files as they are, which AutoAWQ does not save."""
    for pattern in TOKENIZER_FILES:
        for file in model.glob(pattern):
            shutil.copyfile(file, out / file.name)


def load_tokens(path: Path) -> torch.Tensor:
    """The int64 tensor `tokens` of shape [samples, seqlen]."""
    tokens = load_file(path)["tokens"]
    if tokens.ndim != 2 or tokens.dtype != torch.int64:
        raise SystemExit(
            f"tokens must be int64 [samples, seqlen], got {tokens.dtype} {tokens.ndim}-D"
        )
    return tokens


def quantize(
    awq: Any, tokens: torch.Tensor, out: Path, group_size: int, quantizer: type[AwqQuantizer]
) -> None:
    """Quantize on the rows of `tokens` and save.

    AutoAWQ drops rows longer than `max_calib_seq_len`, joins the others and cuts them again at
    that length (512 by default), so it must be told the length of the rows to keep them whole.
    """
    awq.quantize(
        tokenizer=None,  # only asked when the calibration data is text
        quant_config={
            "zero_point": True,
            "q_group_size": group_size,
            "w_bit": 4,
            "version": "GEMM",
        },
        calib_data=tokens.tolist(),
        max_calib_samples=tokens.shape[0],
        max_calib_seq_len=tokens.shape[1],
        quantizer_cls=quantizer,
    )
    awq.save_quantized(str(out))


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Quantize as the command line says; the figures to print."""
    tokens = load_tokens(args.tokens)
    with tempfile.TemporaryDirectory() as folder:
        link_model(args.model.resolve(), Path(folder))
        awq = AutoAWQForCausalLM.from_pretrained(folder, device_map="cpu", trust_remote_code=False)
        start = time.perf_counter()
        quantizer = AwqQuantizer if args.as_shipped else CpuAwqQuantizer
        quantize(awq, tokens, args.out, args.group_size, quantizer)
        seconds = time.perf_counter() - start
    copy_tokenizer(args.model, args.out)
    process = psutil.Process(os.getpid())
    return {
        "quantize_seconds": round(seconds, 2),
        "total_seconds": round(time.time() - process.create_time(), 2),
        "cpu_seconds": round(sum(process.cpu_times()[:2]), 2),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "threads": torch.get_num_threads(),
        "as_shipped": args.as_shipped,
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("tokens", type=Path, help="safetensors file with int64 `tokens`")
    parser.add_argument("out", type=Path, help="folder to write, which must not exist")
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--threads", type=int, help="threads of torch; all cores by default")
    parser.add_argument(
        "--as-shipped",
        action="store_true",
        help="keep the fault on CPU that CpuAwqQuantizer corrects",
    )
    return parser.parse_args()


def main() -> None:
    """Quantize and print one JSON line."""
    args = parse()
    if args.out.exists():
        raise SystemExit(f"{args.out} exists already")
    if args.threads:
        torch.set_num_threads(args.threads)
    print(json.dumps(run(args)))


if __name__ == "__main__":
    main()
