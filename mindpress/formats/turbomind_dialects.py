"""The keys that each LMDeploy release wrote into the config of a workspace, as data.

Source: LMDeploy v0.2.6, v0.3.0 and v0.5.3, lmdeploy/turbomind/deploy/target_model/base.py; v0.6.0
and v0.6.3, lmdeploy/turbomind/deploy/config.py.
"""

from dataclasses import dataclass, field

from mindpress.formats.turbomind import Layout

SECTION = "llama"
# What the engine is told beside the model; users edit these values.
ENGINE: dict[str, object] = {
    "max_batch_size": 64,
    "max_prefill_token_num": 8192,
    "max_context_token_num": 1,
    "step_length": 1,
    "cache_max_entry_count": 0.8,
    "cache_block_seq_len": 64,
    "cache_chunk_size": -1,
    "enable_prefix_caching": False,
    "num_tokens_per_iter": 0,
    "max_prefill_iters": 1,
    "extra_tokens_per_iter": 0,
    "use_context_fmha": 1,
    "use_logn_attn": 0,
    "lora_policy": "",
    "lora_r": 0,
    "lora_scale": 0.0,
    "lora_max_wo_r": 0,
    "lora_rank_pattern": "",
    "lora_scale_pattern": "",
    "chat_template": "base",
    "expert_inter_size": 0,
    "expert_num": 0,
    "experts_per_token": 0,
    "moe_norm_topk": 0,
    "moe_shared_gate": 0,
}
INI_0_2 = """model_name tensor_para_size head_num kv_head_num vocab_size num_layer inter_size
norm_eps attn_bias start_id end_id session_len weight_type rotary_embedding rope_theta size_per_head
group_size max_batch_size max_context_token_num step_length cache_max_entry_count
cache_block_seq_len cache_chunk_size num_tokens_per_iter max_prefill_iters extra_tokens_per_iter
use_context_fmha quant_policy max_position_embeddings rope_scaling_factor use_logn_attn"""
INI_0_3 = INI_0_2.replace("use_logn_attn", "use_dynamic_ntk use_logn_attn")
INI_0_5 = """model_name model_arch tensor_para_size head_num kv_head_num vocab_size num_layer
inter_size norm_eps attn_bias start_id end_id session_len weight_type rotary_embedding rope_theta
size_per_head group_size max_batch_size max_prefill_token_num max_context_token_num step_length
cache_max_entry_count cache_block_seq_len cache_chunk_size enable_prefix_caching
num_tokens_per_iter max_prefill_iters use_context_fmha quant_policy max_position_embeddings
original_max_position_embeddings rope_scaling_type rope_scaling_factor use_dynamic_ntk
low_freq_factor high_freq_factor use_logn_attn lora_policy lora_r lora_scale lora_max_wo_r
lora_rank_pattern lora_scale_pattern"""
YAML_ATTENTION = """cache_block_seq_len high_freq_factor low_freq_factor max_position_embeddings
original_max_position_embeddings rope_scaling_factor rope_scaling_type rope_theta
rotary_embedding use_dynamic_ntk use_logn_attn"""
YAML_LORA = "lora_max_wo_r lora_policy lora_r lora_rank_pattern lora_scale lora_scale_pattern"
YAML_MODEL = """attn_bias chat_template end_id group_size head_num hidden_units inter_size
kv_head_num model_arch model_format model_name norm_eps num_layer session_len size_per_head
start_id tp vocab_size weight_type"""
YAML_0_6_0 = {
    "attention_config": YAML_ATTENTION,
    "lora_config": YAML_LORA,
    "model_config": YAML_MODEL,
}
YAML_0_6_3 = {
    "attention_config": f"{YAML_ATTENTION} attention_factor beta_fast beta_slow",
    "lora_config": YAML_LORA,
    "model_config": f"""{YAML_MODEL} embedding_size expert_inter_size expert_num
        experts_per_token moe_norm_topk moe_shared_gate""",
}


@dataclass(frozen=True, slots=True)
class Dialect:
    """The config of one LMDeploy release, and what its engines can run.

    `version` is what `--tm-version` names. `keys` are those of each section, spaces between them.
    `float_group` is the group size it writes for models without groups. `session_extra` tokens
    are added to the longest text.
    """

    version: str
    release: str
    layout: Layout
    keys: dict[str, str]
    head_sizes: tuple[int, ...]
    ropes: tuple[str, ...]
    float_names: dict[str, str]
    float_group: int = 0
    session_extra: int = 0
    constants: dict[str, object] = field(default_factory=dict)

    @property
    def file(self) -> str:
        return f"config.{self.layout}"


SHORT = {"float16": "fp16", "bfloat16": "bf16"}
SCALED = ("default", "linear", "dynamic", "llama3")
V0_2 = Dialect(
    "0.2", "0.2.6", "ini", {SECTION: INI_0_2}, (128,), ("default",), SHORT, session_extra=8,
    constants={"cache_block_seq_len": 128, "rope_scaling_factor": 0.0},
)  # fmt: skip
V0_3 = Dialect(
    "0.3", "0.3.0", "ini", {SECTION: INI_0_3}, (128,), ("default", "dynamic"), SHORT,
    session_extra=8,
)  # fmt: skip
V0_5 = Dialect(
    "0.5", "0.5.3", "ini", {SECTION: INI_0_5}, (128,), SCALED, SHORT, session_extra=8
)  # fmt: skip
V0_6_0 = Dialect("0.6", "0.6.0", "yaml", YAML_0_6_0, (128,), SCALED, SHORT, float_group=128)
V0_6_3 = Dialect(
    "0.6", "0.6.3", "yaml", YAML_0_6_3, (64, 128), (*SCALED, "yarn"), {}, float_group=128
)  # fmt: skip

# Which keys a file has tells the releases that may have written it; the newest come first.
INI_RELEASES = (
    ("0.5.3", {"max_prefill_token_num"}),
    ("0.5.2", {"rope_scaling_type"}),
    ("0.5.0 to 0.5.1", {"model_arch"}),
    ("0.4.2", {"enable_prefix_caching"}),
    ("0.4.0 to 0.4.1", {"lora_policy"}),
    ("0.3", {"use_dynamic_ntk", "num_tokens_per_iter"}),
    ("0.2", {"num_tokens_per_iter"}),
    ("0.1", {"cache_block_seq_len"}),
    ("0.0", set[str]()),
)
YAML_RELEASES = (
    ("0.7 or later", {"rope_param"}),
    ("0.6.3 or later", {"embedding_size"}),
    ("0.6.0 to 0.6.2", set[str]()),
)
# They wrote the length that the chat template likes, not the one the model can.
TEMPLATE_SESSIONS = ("0.0", "0.1", "0.2", "0.3", "0.4.0 to 0.4.1")
