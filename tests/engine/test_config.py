import subprocess
import sys

import pytest

from mindpress.engine.config import EngineConfig, GenerationConfig, Sampling
from mindpress.engine.settings import Validation
from mindpress.errors import ConfigError


@pytest.mark.parametrize(
    ("flag", "values"),
    [
        ("--temperature", {"temperature": -0.1}),
        ("--temperature", {"temperature": float("nan")}),
        ("--temperature", {"temperature": float("inf")}),
        ("--top-k", {"top_k": -1}),
        ("--top-p", {"top_p": 0.0}),
        ("--top-p", {"top_p": 1.01}),
        ("--repetition-penalty", {"repetition_penalty": 0.0}),
        ("--max-new-tokens", {"max_new_tokens": 0}),
        ("--seed", {"seed": -1}),
        ("--seed", {"seed": 2**63}),
        ("--stop", {"stop": ("a", "")}),
    ],
)
def test_a_wrong_value_names_its_flag(flag, values):
    with pytest.raises(ConfigError, match=flag):
        GenerationConfig(**values)


def test_given_flags_win_over_the_model_and_the_model_over_our_defaults():
    defaults = {"temperature": 0.1, "top_p": 0.5}
    assert GenerationConfig(temperature=0.7).sampling(defaults) == Sampling(0.7, 40, 0.5, 1.0)
    assert GenerationConfig().sampling() == Sampling()
    assert GenerationConfig(temperature=0.0).sampling(defaults).temperature == 0


def test_settings_are_checked_where_they_are_made():
    with pytest.raises(ConfigError, match="--threads 0"):
        EngineConfig(threads=0)
    with pytest.raises(ConfigError, match="--seqlen 1"):
        Validation("m", length=1)
    with pytest.raises(ConfigError, match="--limit 0"):
        Validation("m", limit=0)


def test_settings_load_no_torch():
    code = (
        "import sys, mindpress.engine.config, mindpress.engine.settings;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
