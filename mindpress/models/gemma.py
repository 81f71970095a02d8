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
    turbomind_obstacle="its engines have no soft caps and no norms after a sublayer",
)
