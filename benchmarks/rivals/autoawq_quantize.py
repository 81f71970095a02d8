"""Quantize a model with AutoAWQ on CPU, on given calibration tokens.

Run with the Python that has `autoawq-requirements.txt` installed, not with mindpress's own.
Everything but the calibration data is AutoAWQ's default: 4 bits, asymmetric, `duo_scaling` and
`apply_clip` on. The result is AutoAWQ's "gemm" folder with the tokenizer of the model beside it.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from awq import AutoAWQForCausalLM  # pyright: ignore[reportMissingImports]
from awq.quantize.quantizer import AwqQuantizer  # pyright: ignore[reportMissingImports]
from driving import drive, parser_of


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


def quantize(tokens: torch.Tensor, args: argparse.Namespace) -> None:
    """Load, quantize, save.

    AutoAWQ drops rows longer than `max_calib_seq_len`, joins the others and cuts them again at
    that length (512 by default), so it must be told the length of the rows to keep them whole.
    """
    with tempfile.TemporaryDirectory() as folder:
        link_model(args.model.resolve(), Path(folder))
        awq = AutoAWQForCausalLM.from_pretrained(
            folder,
            device_map="cpu",
            torch_dtype=getattr(torch, args.dtype),
            trust_remote_code=False,
        )
        awq.quantize(
            tokenizer=None,  # only asked when the calibration data is text
            quant_config={"zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM"},
            calib_data=tokens.tolist(),
            max_calib_samples=tokens.shape[0],
            max_calib_seq_len=tokens.shape[1],
            quantizer_cls=AwqQuantizer if args.as_shipped else CpuAwqQuantizer,
        )
        awq.save_quantized(str(args.out))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument(
        "--as-shipped",
        action="store_true",
        help="keep the fault on CPU that CpuAwqQuantizer corrects",
    )
    args = parser.parse_args()
    drive(args, ("autoawq",), lambda tokens: quantize(tokens, args))


if __name__ == "__main__":
    main()
