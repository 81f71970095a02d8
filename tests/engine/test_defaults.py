import json

import pytest

from mindpress.engine.defaults import read_defaults
from mindpress.errors import InputError


class Tokenizer:
    eos_token_id = 2


class Endless:
    eos_token_id = None


def folder(path, **files):
    for name, values in files.items():
        (path / f"{name}.json").write_text(json.dumps(values))
    return path


def test_tokens_that_end_an_answer_come_from_three_places(tmp_path):
    folder(tmp_path, generation_config={"eos_token_id": [4, 5]}, config={"eos_token_id": 6})
    assert read_defaults(tmp_path, Tokenizer()).eos_ids == {2, 4, 5, 6}


def test_none_of_them_needs_to_be_there(tmp_path):
    defaults = read_defaults(tmp_path, Endless())
    assert defaults.eos_ids == frozenset()
    assert defaults.sampling == {}
    folder(tmp_path, config={"eos_token_id": None})
    assert read_defaults(tmp_path, Tokenizer()).eos_ids == {2}


@pytest.mark.parametrize(
    ("stated", "sampling"),
    [
        ({"temperature": 0.6, "top_p": 0.9, "top_k": None}, {"temperature": 0.6, "top_p": 0.9}),
        ({"top_k": -1, "repetition_penalty": 1.05}, {"top_k": 0, "repetition_penalty": 1.05}),
        ({"do_sample": False, "temperature": 0.6}, {"temperature": 0.0}),
        ({"do_sample": True, "max_length": 20}, {}),
    ],
)
def test_sampling_of_the_model(tmp_path, stated, sampling):
    folder(tmp_path, generation_config=stated)
    assert read_defaults(tmp_path, Tokenizer()).sampling == sampling


@pytest.mark.parametrize(
    "stated",
    [{"top_p": 7}, {"temperature": "warm"}, {"top_k": [1]}, {"top_k": 2.5}, {"top_p": True},
     {"eos_token_id": "</s>"},
     {"eos_token_id": [2, None]}, {"eos_token_id": True}],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path, stated):
    folder(tmp_path, generation_config=stated)
    with pytest.raises(InputError, match=str(tmp_path)):
        read_defaults(tmp_path, Tokenizer())
