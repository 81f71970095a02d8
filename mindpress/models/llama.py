"""Llama, and the families that kept its names."""

from dataclasses import replace

from mindpress.models.description import Architecture, Biases, Block, Linear

LLAMA = Architecture(
    hf_class="LlamaForCausalLM",
    model_type="llama",
    embedding="model.embed_tokens",
    blocks="model.layers",
    block=Block(
        attention_norm="input_layernorm",
        attention_inputs=(
            Linear("self_attn.q_proj", ("query",)),
            Linear("self_attn.k_proj", ("key",)),
            Linear("self_attn.v_proj", ("value",)),
        ),
        attention_output=Linear("self_attn.o_proj", ("output",)),
        mlp_norm="post_attention_layernorm",
        mlp_inputs=(Linear("mlp.gate_proj", ("gate",)), Linear("mlp.up_proj", ("up",))),
        mlp_output=Linear("mlp.down_proj", ("down",)),
    ),
    final_norm="model.norm",
    head="lm_head",
    biases=Biases("attention_bias", "attention_bias", "mlp_bias"),
)
MISTRAL = replace(
    LLAMA,
    hf_class="MistralForCausalLM",
    model_type="mistral",
    biases=Biases(),
    window="all",
    defaults={"num_key_value_heads": 8, "sliding_window": 4096, "max_position_embeddings": 131072},
)
QWEN2 = replace(
    LLAMA,
    hf_class="Qwen2ForCausalLM",
    model_type="qwen2",
    biases=Biases(query_key_value=True),
    window="use_sliding_window",
    defaults={
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "max_position_embeddings": 32768,
    },
)
QWEN3 = replace(
    LLAMA,
    hf_class="Qwen3ForCausalLM",
    model_type="qwen3",
    block=replace(LLAMA.block, query_norm="self_attn.q_norm", key_norm="self_attn.k_norm"),
    biases=Biases("attention_bias", "attention_bias", False),
    window="use_sliding_window",
    defaults={**QWEN2.defaults, "head_dim": 128},
    turbomind_obstacle="its engines have no query and key norms",
)

# Phi-3 fuses query, key and value, and gate and up.
PHI3 = replace(
    LLAMA,
    hf_class="Phi3ForCausalLM",
    model_type="phi3",
    block=replace(
        LLAMA.block,
        attention_inputs=(Linear("self_attn.qkv_proj", ("query", "key", "value")),),
        mlp_inputs=(Linear("mlp.gate_up_proj", ("gate", "up")),),
    ),
    biases=Biases(),
    window="all",
    defaults={
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
    },
)
