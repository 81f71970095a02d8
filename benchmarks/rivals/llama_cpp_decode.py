"""Speed of llama.cpp on a Llama folder: `llama_cpp_decode.py MODEL GGUF` in a venv of its own.

That venv has llama-cpp-python, gguf and safetensors. Writes the model as GGUF in float16,
quantizes it to Q4_0, and prints JSON lines: `ready`, then for every line of stdin the seconds of
reading a prompt and of writing each token, so that another process can take turns with it.
"""

import json
import sys
import time
from pathlib import Path

import gguf  # pyright: ignore[reportMissingImports]
import llama_cpp  # pyright: ignore[reportMissingImports]
import numpy as np
from safetensors.numpy import load_file

NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def renamed(name: str) -> str:
    if name in OUTER:
        return OUTER[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}"


def write(model: Path, file: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<{index}>" for index in range(config["vocab_size"])])
    writer.add_token_scores([0.0] * config["vocab_size"])
    writer.add_token_types([1] * config["vocab_size"])
    for shard in sorted(model.glob("*.safetensors")):
        for name, tensor in load_file(shard).items():
            wide = tensor.ndim == 1
            writer.add_tensor(renamed(name), tensor.astype(np.float32 if wide else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source: Path, target: Path) -> None:
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
    parameters.nthread = 2
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), parameters)
    if status != 0:
        raise SystemExit(f"llama_model_quantize: {status}")


def main() -> None:
    model, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    plain, small = folder / "f16.gguf", folder / "q4_0.gguf"
    if not small.exists():
        write(model, plain)
        quantize(plain, small)
    llama = llama_cpp.Llama(
        str(small), n_ctx=1024, n_batch=512, n_ubatch=512, n_threads=1, n_threads_batch=1,
        verbose=False, logits_all=False,
    )  # fmt: skip
    print(json.dumps({"ready": small.stat().st_size}), flush=True)
    for line in sys.stdin:
        prompt, new = json.loads(line)
        llama.reset()
        begun = time.perf_counter()
        llama.eval([5 + index % 1000 for index in range(prompt)])
        read = time.perf_counter()
        times = []
        for index in range(new):
            start = time.perf_counter()
            llama.eval([7 + index])
            times.append(time.perf_counter() - start)
        print(json.dumps({"read": read - begun, "tokens": times}), flush=True)


if __name__ == "__main__":
    main()
