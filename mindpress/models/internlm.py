"""InternLM 2 and 3: Llama's mathematics; version 2 under other names and with a fused wqkv."""

from dataclasses import replace

from mindpress.models.description import Architecture, Biases, Block, Linear
from mindpress.models.llama import LLAMA

INTERNLM2 = Architecture(
    hf_class="InternLM2ForCausalLM",
    model_type="internlm2",
    embedding="model.tok_embeddings",
    blocks="model.layers",
    block=Block(
        attention_norm="attention_norm",
        attention_inputs=(Linear("attention.wqkv", ("query", "key", "value"), grouped=True),),
        attention_output=Linear("attention.wo", ("output",)),
        mlp_norm="ffn_norm",
        mlp_inputs=(Linear("feed_forward.w1", ("gate",)), Linear("feed_forward.w3", ("up",))),
        mlp_output=Linear("feed_forward.w2", ("down",)),
    ),
    final_norm="model.norm",
    head="output",
    biases=Biases("bias", "bias", False),
    runs_as="LlamaForCausalLM",
)
INTERNLM3 = replace(
    LLAMA,
    hf_class="InternLM3ForCausalLM",
    model_type="internlm3",
    biases=Biases("qkv_bias", "bias", "bias"),
    defaults={
        "num_key_value_heads": 2,
        "head_dim": 128,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 32768,
    },
)
