"""A workspace computes what the folder it came from computes."""

import pytest
import torch
from tiny_awq import quantize_folder
from tiny_models import save_tiny

from mindpress.convert.convert import convert_model
from mindpress.convert.settings import Conversion
from mindpress.engine.chat import open_chat
from mindpress.engine.config import EngineConfig, GenerationConfig
from mindpress.engine.loader import load_decoder
from mindpress.engine.opening import open_runtime
from mindpress.events import Note
from mindpress.sources.opening import open_source

# Heads as TurboMind's engines have them.
SIZES = {
    "hidden_size": 512,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 128,
}
CASES = {
    "llama, biases": ("llama", {"attention_bias": True}, False),
    "llama, tied": ("llama", {"tie_word_embeddings": True}, False),
    "qwen2": ("qwen2", {}, False),
    "internlm2": ("internlm2", {}, False),
    "phi3": ("phi3", {}, False),
    "llama, int4": ("llama", {}, True),
    "qwen2, int4": ("qwen2", {}, True),
}


def logits(path):
    decoder = load_decoder(open_source(path), EngineConfig("cpu"))
    ids = torch.randint(0, 4000, (2, 40), generator=torch.Generator().manual_seed(1))
    return decoder.logits(decoder.hidden(ids))


def converted(folder, target, tp, version):
    convert_model(Conversion(str(folder), target, tp=tp, tm_version=version))
    return target


@pytest.mark.parametrize(("tp", "version"), [(1, "0.5"), (2, "0.6")])
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_folder(case, tp, version, tmp_path):
    family, overrides, quantized = CASES[case]
    folder = save_tiny(family, tmp_path / "folder", **(SIZES | overrides))
    if quantized:
        quantize_folder(folder)
    workspace = converted(folder, tmp_path / "workspace", tp, version)
    torch.testing.assert_close(logits(workspace), logits(folder), rtol=0, atol=0)


def test_a_conversation_with_a_workspace(tmp_path):
    folder = save_tiny("llama", tmp_path / "folder", **SIZES)
    workspace = converted(folder, tmp_path / "workspace", 1, "auto")
    config = GenerationConfig(10, temperature=0.0)
    answers = ["".join(open_chat(path).ask("Hello", config)) for path in (folder, workspace)]
    assert answers[0] == answers[1] != ""


def test_a_workspace_of_another_tp_is_shared_out_anew_and_says_so(tmp_path):
    folder = save_tiny("llama", tmp_path / "folder", **(SIZES | {"num_key_value_heads": 4}))
    workspace, notes = converted(folder, tmp_path / "workspace", 4, "auto"), []
    found = []
    for path, tp in ((folder, 1), (workspace, 2)):
        runtime = open_runtime(path, EngineConfig("cpu", tp=tp), notes.append)
        try:
            answer = runtime.add([5, 6, 7, 8], GenerationConfig(8, temperature=0.0))
            while not runtime.idle:
                runtime.step()
        finally:
            runtime.close()
        found.append(answer.tokens)
    assert found[0] == found[1]
    told = [note.text for note in notes if isinstance(note, Note)]
    assert any("converted for tp 4, shared out anew for 2" in text for text in told)
