from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindpress.errors import InputError
from mindpress.formats.turbomind_config import RopeSettings, WorkspaceConfig, write_rope
from mindpress.formats.turbomind_dialects import V0_2, V0_3, V0_5, V0_6_0, V0_6_3
from mindpress.formats.turbomind_text import read_config, write_config
from mindpress.models.shape import Rope

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "ws"
DIALECTS = [V0_2, V0_3, V0_5, V0_6_0, V0_6_3]
# As the config classes of LMDeploy 0.6.3 dump a Llama with heads of 64.
HEADS_OF_64 = """attention_config:
  attention_factor: -1.0
  beta_fast: 32.0
  beta_slow: 1.0
  cache_block_seq_len: 64
  high_freq_factor: 4.0
  low_freq_factor: 1.0
  max_position_embeddings: 512
  original_max_position_embeddings: 256
  rope_scaling_factor: 8.0
  rope_scaling_type: llama3
  rope_theta: 10000.0
  rotary_embedding: 64
  use_dynamic_ntk: 0
  use_logn_attn: 0
lora_config:
  lora_max_wo_r: 0
  lora_policy: ''
  lora_r: 0
  lora_rank_pattern: ''
  lora_scale: 0.0
  lora_scale_pattern: ''
model_config:
  attn_bias: 0
  chat_template: base
  embedding_size: 4096
  end_id: 2
  expert_inter_size: 0
  expert_num: 0
  experts_per_token: 0
  group_size: 128
  head_num: 4
  hidden_units: 256
  inter_size: 768
  kv_head_num: 2
  model_arch: LlamaForCausalLM
  model_format: hf
  model_name: llama2
  moe_norm_topk: 0
  moe_shared_gate: 0
  norm_eps: 1.0e-05
  num_layer: 1
  session_len: 512
  size_per_head: 64
  start_id: 1
  tp: 1
  vocab_size: 4096
  weight_type: float16
"""
LLAMA3 = {
    "factor": 8,
    "low_freq_factor": 1,
    "high_freq_factor": 4,
    "original_max_position_embeddings": 256,
}
CONFIG = WorkspaceConfig(
    layout="yaml",
    release="0.6.3 or later",
    model_name="llama2",
    model_arch="LlamaForCausalLM",
    tp=1,
    layers=1,
    hidden=256,
    heads=4,
    kv_heads=2,
    head_dim=64,
    rotary_dim=64,
    inner=768,
    vocab=4096,
    norm_eps=1e-5,
    attn_bias=False,
    start_id=1,
    end_id=2,
    session_length=512,
    trained_length=512,
    weight_type="float16",
    group_size=0,
    rope=write_rope(Rope(10000.0, "llama3", LLAMA3)),
)


# The fields of `TurbomindModelConfig` in LMDeploy 0.3.0, in their order.
KEYS_OF_0_3 = """[llama]
model_name = llama2
tensor_para_size = 1
head_num = 4
kv_head_num = 2
vocab_size = 4096
num_layer = 1
inter_size = 768
norm_eps = 1e-05
attn_bias = 0
start_id = 1
end_id = 2
session_len = 520
weight_type = fp16
rotary_embedding = 64
rope_theta = 10000.0
size_per_head = 64
group_size = 0
max_batch_size = 64
max_context_token_num = 1
step_length = 1
cache_max_entry_count = 0.8
cache_block_seq_len = 64
cache_chunk_size = -1
num_tokens_per_iter = 0
max_prefill_iters = 1
extra_tokens_per_iter = 0
use_context_fmha = 1
quant_policy = 4
max_position_embeddings = 512
rope_scaling_factor = 2.0
use_dynamic_ntk = 1
use_logn_attn = 0

"""


def read_back(config, dialect):
    layout = dialect.layout
    written = write_config(replace(config, layout=layout), dialect)
    return read_config(written, layout)


def test_the_yaml_of_heads_of_64_is_that_of_lmdeploy_0_6_3():
    assert write_config(CONFIG, V0_6_3) == HEADS_OF_64


def test_the_ini_of_0_3_has_its_keys_in_order_and_reads_back():
    dynamic = write_rope(Rope(10000.0, "dynamic", {"factor": 2.0}))
    config = replace(CONFIG, layout="ini", rope=dynamic, quant_policy=4)
    written = write_config(config, V0_3)
    assert written == KEYS_OF_0_3
    back = read_config(written, "ini")
    assert back.release == "0.3"
    assert (back.rope.kind, back.rope.factor) == ("dynamic", 2.0)
    assert back.cache_bits == 8


@pytest.mark.parametrize("weight_type", ["float16", "bfloat16", "int4"])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.release)
def test_reading_undoes_writing(dialect, weight_type):
    group = 128 if weight_type == "int4" else 0
    plain = replace(CONFIG, rope=RopeSettings(5e5), weight_type=weight_type, group_size=group)
    back = read_back(plain, dialect)
    unknown = {"model_arch": ""} if dialect in (V0_2, V0_3) else {}
    expected = replace(plain, layout=dialect.layout, release=back.release, **unknown)
    assert back == expected
    assert dialect.release.rsplit(".", 1)[0] in back.release


@pytest.mark.parametrize(
    "rope",
    [
        Rope(10000.0, "linear", {"factor": 2.0}),
        Rope(10000.0, "dynamic", {"factor": 4.0}),
        Rope(5e5, "llama3", LLAMA3),
        Rope(1e6, "yarn", {"factor": 4.0, "original_max_position_embeddings": 512}),
        Rope(1e6, "yarn", {"factor": 4.0, "attention_factor": 1.5, "beta_fast": 16.0}),
    ],
    ids=lambda rope: rope.kind,
)
def test_rope_comes_back(rope):
    """What the reader adds (defaults written out) must not change a value that was there."""
    config = replace(CONFIG, rope=write_rope(rope))
    back = read_back(config, V0_6_3)
    assert back.rope == config.rope
    read = back.shape.rope
    assert (read.theta, read.kind) == (rope.theta, rope.kind)
    assert {key: read.parameters[key] for key in rope.parameters} == dict(rope.parameters)


@pytest.mark.parametrize("file", sorted(GOLDEN.rglob("config.*")), ids=lambda f: str(f.parent.name))
def test_configs_of_lmdeploy_are_understood(file):
    config = read_config(file.read_text(), file.suffix[1:])
    assert config.heads * config.head_dim == config.hidden
    assert config.shape.max_length == 2048
    assert config.weight_type == ("int4" if "awq" in file.parent.name else "float16")
    assert config.tp == int(file.parent.name[-1])


def test_a_model_with_yarn_reaches_past_its_trained_length():
    yarn = replace(CONFIG, rope=RopeSettings(1e4, "yarn", 4.0), trained_length=128)
    assert yarn.shape.max_length == 512
    assert yarn.shape.rope.parameters["original_max_position_embeddings"] == 128
    assert replace(CONFIG, trained_length=128).shape.max_length == 128


def test_a_factor_alone_meant_dynamic_rope_up_to_0_2():
    text = write_config(CONFIG, V0_2).replace(
        "rope_scaling_factor = 0.0", "rope_scaling_factor = 2.0"
    )
    assert read_config(text, "ini").rope.kind == "dynamic"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("head_num: 4", "head_num: 0", "`head_num` is 0"),
        ("head_num: 4", "head_num: -4", "`head_num` is -4"),
        ("num_layer: 1", "num_layer: 100000", "`num_layer`"),
        ("num_layer: 1", "num_layer: .inf", "`num_layer`"),
        ("vocab_size: 4096", "vocab_size: many", "`vocab_size` is 'many'"),
        ("  tp: 1\n", "", "`tp` is missing"),
        ("weight_type: float16", "weight_type: fp8", "`weight_type` is `fp8`"),
        ("inter_size: 768", "inter_size: [768]", "0.7"),
        ("expert_num: 0", "expert_num: 8", "mixtures"),
        ("lora_policy: ''", "lora_policy: plora", "adapters"),
        ("model_config:", "other_config:", "model_config"),
        ("tp: 1", "tp: [", "not readable"),
    ],
)
def test_what_cannot_be_read_is_named(old, new, named):
    assert old in HEADS_OF_64
    with pytest.raises(InputError) as caught:
        read_config(HEADS_OF_64.replace(old, new), "yaml")
    assert named in str(caught.value)


@pytest.mark.parametrize("text", ["", "head_num = 4", "[other]\nx = 1\n", "[llama]\n[llama]\n"])
def test_an_ini_file_without_its_section_is_refused(text):
    with pytest.raises(InputError):
        read_config(text, "ini")


@given(
    st.sampled_from(["ini", "yaml"]),
    st.integers(0, 40),
    st.sampled_from(["", "x", "-1", "1e999", "nan", "[1]", "{a: 1}", "~", "true", "9" * 400]),
)
def test_no_value_makes_reading_fail_in_any_other_way(layout, number, value):
    lines = write_config(replace(CONFIG, layout=layout), V0_5 if layout == "ini" else V0_6_3)
    changed = lines.splitlines()
    line = changed[number % len(changed)]
    sign = "=" if layout == "ini" else ":"
    changed[number % len(changed)] = f"{line.split(sign)[0]}{sign} {value}"
    try:
        config = read_config("\n".join(changed), layout)
    except InputError:
        return
    assert config.shape.layers >= 1


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a: &a [1]\nb: *a\n", "holds an alias"),
        ("a: &a {x: 1}\nb:\n  <<: [*a, *a]\n", "holds an alias"),
        ("a: " + "[" * 3000, "not readable"),
        ("a: 2001-99-99", "not readable"),
        ("a: !!python/name:os.system", "not readable"),
    ],
)
def test_yaml_that_is_a_trap_is_refused(text, named):
    with pytest.raises(InputError, match=named):
        read_config(text, "yaml")


def test_no_kv_heads_are_none():
    text = write_config(CONFIG, V0_5)
    line = next(line for line in text.splitlines() if line.startswith("kv_head_num"))
    with pytest.raises(InputError, match="`kv_head_num` is 0"):
        read_config(text.replace(line, "kv_head_num = 0"), "ini")
