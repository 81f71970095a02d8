import json

import pytest
from tiny_models import edit_config, save_tiny

from mindpress.checkpoint.companions import load_tokenizer
from mindpress.convert.tokens import special_ids, tokenizer_files
from mindpress.errors import InputError
from mindpress.sources.folder import open_folder

SMALL = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64}


@pytest.fixture
def folder(tmp_path):
    return save_tiny("llama", tmp_path / "model", **SMALL)


def edit(file, **changes):
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def ids(folder):
    return special_ids(open_folder(folder))


def test_the_ids_are_those_of_the_real_tokenizer(folder):
    edit_config(folder, bos_token_id=7, eos_token_id=9)
    tokenizer = load_tokenizer(folder)
    assert ids(folder) == (tokenizer.bos_token_id or 0, tokenizer.eos_token_id)


def test_tokens_are_found_in_the_vocabulary(folder):
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    word = sorted(words)[-1]
    edit(folder / "tokenizer_config.json", eos_token={"content": word}, added_tokens_decoder=None)
    assert ids(folder)[1] == words[word]


def test_without_tokens_the_configs_decide(folder):
    edit(folder / "tokenizer_config.json", bos_token=None, eos_token=None)
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    edit_config(folder, bos_token_id=None, eos_token_id=[5, 6])
    (folder / "generation_config.json").write_text('{"bos_token_id": 3, "eos_token_id": 4}')
    assert ids(folder) == (3, 5)


def test_a_model_without_an_end_is_refused(folder):
    edit(folder / "tokenizer_config.json", eos_token=None)
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    (folder / "generation_config.json").unlink(missing_ok=True)
    edit_config(folder, eos_token_id=None)
    with pytest.raises(InputError, match="no file names the end token"):
        ids(folder)


def test_qwen2_has_the_fixed_ids_of_lmdeploy_where_its_vocabulary_has_them(tmp_path):
    small = save_tiny("qwen2", tmp_path / "small", **SMALL)
    assert ids(small) == (special_ids(open_folder(small)))
    assert max(ids(small)) < 4096
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2}
    whole = save_tiny("qwen2", tmp_path / "whole", vocab_size=151646, intermediate_size=8, **sizes)
    assert ids(whole) == (151643, 151645)


@pytest.mark.parametrize(
    "changes",
    [
        {"added_tokens": 5},
        {"added_tokens": [{"id": "7", "content": "</s>"}]},
        {"model": {"vocab": 1}},
    ],
)
def test_a_tokenizer_of_odd_fields_leaves_it_to_the_configs(folder, changes):
    edit(folder / "tokenizer_config.json", eos_token="</s>", added_tokens_decoder={"²": {}})
    edit(folder / "tokenizer.json", **({"added_tokens": [], "model": {}} | changes))
    edit_config(folder, eos_token_id=9)
    assert ids(folder)[1] == 9


@pytest.mark.parametrize("number", [-1, 2**40])
def test_an_id_that_no_token_has_is_refused(folder, number):
    edit(folder / "tokenizer_config.json", eos_token=None)
    edit_config(folder, eos_token_id=number)
    with pytest.raises(InputError, match=f"the eos token has the number {number}"):
        ids(folder)


def test_a_linked_file_does_not_get_into_the_workspace(folder, tmp_path):
    (tmp_path / "secret.json").write_text("{}")
    (folder / "added_tokens.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(InputError, match="outside the folder"):
        tokenizer_files(folder)
