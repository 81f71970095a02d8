import json

import pytest
import torch
from tiny_models import save_tiny

from mindpress.engine.chat import open_chat
from mindpress.engine.config import EngineConfig, GenerationConfig
from mindpress.errors import ConfigError, InputError, NumericError
from mindpress.events import Note

GREEDY = GenerationConfig(max_new_tokens=20, temperature=0.0)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = save_tiny("llama", tmp_path_factory.mktemp("llama"), dtype=torch.float32)
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


@pytest.fixture
def session(folder):
    return open_chat(folder, EngineConfig("cpu"))


def ask(session, text, config=GREEDY):
    return "".join(session.ask(text, config))


def test_questions_and_answers_are_remembered(session):
    first, second = ask(session, "Hello"), ask(session, "And then?")
    assert [message["role"] for message in session.messages] == ["user", "assistant"] * 2
    assert [message["content"] for message in session.messages] == [
        "Hello", first, "And then?", second,
    ]  # fmt: skip
    assert session.stats.new_tokens == 20
    assert session.stats.finish == "length"


def test_what_was_read_before_is_not_read_again_and_changes_nothing(folder, session):
    ask(session, "Hello " * 40)
    page, prompt = session._runtime.memory.tokens, session.stats.prompt_tokens
    answer = ask(session, "And then?")
    assert session.stats.reused_tokens >= prompt // page * page > 0
    fresh = open_chat(folder, EngineConfig("cpu"))
    fresh.messages += session.messages[:2]
    assert ask(fresh, "And then?") == answer
    assert fresh.stats.reused_tokens == 0


def test_clear_begins_anew_but_keeps_the_system_message(session):
    session.system = "Be brief."
    first = ask(session, "Hello")
    session.clear()
    assert session.messages == []
    assert ask(session, "Hello") == first
    session.system = None
    session.clear()
    assert ask(session, "Hello") != first


def test_an_answer_that_is_not_read_to_its_end(session):
    whole = ask(session, "Hello")
    session.clear()
    pieces = session.ask("Hello", GREEDY)
    part = next(pieces) + next(pieces)
    pieces.close()
    assert whole.startswith(part)
    assert session.messages[-1] == {"role": "assistant", "content": part}
    assert session.stats.finish == "interrupted"
    assert ask(session, "Go on")


def test_a_stop_text_ends_the_answer(session):
    whole = ask(session, "Hello")
    stop = whole[7:10]
    session.clear()
    config = GenerationConfig(20, temperature=0.0, stop=(stop, "never"))
    assert ask(session, "Hello", config) == whole[: whole.index(stop)]
    assert session.stats.finish == "stop"


def test_the_models_own_sampling_is_the_default(folder, session):
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.0}))
    own = open_chat(folder, EngineConfig("cpu"))
    assert ask(own, "Hello", GenerationConfig(20)) == ask(session, "Hello")
    hot = GenerationConfig(20, temperature=5.0, top_k=0, top_p=1.0, seed=1)
    own.clear()
    assert ask(own, "Hello", hot) != ask(session, "Hello")


def test_a_conversation_that_no_longer_fits_is_refused_and_can_go_on(session):
    ask(session, "Hello")
    with pytest.raises(ConfigError, match="holds 512"):
        session.ask("many words " * 400, GREEDY)
    assert len(session.messages) == 2
    assert ask(session, "Go on")


def test_a_failed_answer_is_forgotten(session):
    session._runtime.decoder._outer.final_norm[0] = float("nan")
    with pytest.raises(NumericError):
        ask(session, "Hello")
    assert session.messages == []


def test_without_a_template_it_says_so(tmp_path):
    save_tiny("llama", tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    events = []
    session = open_chat(tmp_path, EngineConfig("cpu"), listener=events.append)
    notes = [event.text for event in events if isinstance(event, Note)]
    assert len(notes) == 1
    assert "no chat template" in notes[0]
    assert ask(session, "Hello")


def test_the_tokenizer_is_opened_before_the_weights(tmp_path):
    save_tiny("llama", tmp_path, tokenizer=False)
    events = []
    with pytest.raises(InputError, match="no tokenizer"):
        open_chat(tmp_path, EngineConfig("cpu"), listener=events.append)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model":')
    with pytest.raises(InputError, match="tokenizer cannot be read"):
        open_chat(tmp_path, EngineConfig("cpu"), listener=events.append)
    assert events == []


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        open_chat(tmp_path / "nowhere", EngineConfig("cpu"))
