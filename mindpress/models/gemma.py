"""Gemma 2: norms around each sublayer, stored minus one; soft caps; a window on even layers."""

from dataclasses import replace

from mindpress.models.description import Biases
from mindpress.models.llama import LLAMA

GEMMA2 = replace(
    LLAMA,
    hf_class="Gemma2ForCausalLM",
    model_type="gemma2",
    block=replace(
        LLAMA.block,
        attention_output_norm="post_attention_layernorm",
        mlp_norm="pre_feedforward_layernorm",
        mlp_output_norm="post_feedforward_layernorm",
    ),
    biases=Biases("attention_bias", "attention_bias", False),
    norm_offset=1.0,
    scales_embedding=True,
    window="alternate",
    defaults={
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    turbomind_obstacle="its engines have no soft caps and no norms after a sublayer",
)
