from pathlib import Path

import pytest

import mindpress.demo
from mindpress.checkpoint.companions import load_tokenizer
from mindpress.engine.template import encode_messages, has_template
from mindpress.errors import ConfigError, InputError, MindpressError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
)


@pytest.fixture
def tokenizer():
    return load_tokenizer(Path(mindpress.demo.__file__).parent / "tiny-llama")


def user(text):
    return {"role": "user", "content": text}


def test_the_template_frames_the_messages_and_opens_the_answer(tokenizer):
    tokenizer.chat_template = CHATML
    ids = encode_messages(tokenizer, [user("one two")])
    text = "<|im_start|>user\none two<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(ids) == text
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 2


def test_special_tokens_in_a_message_stay_text(tokenizer):
    tokenizer.chat_template = CHATML
    ids = encode_messages(tokenizer, [user("a<|im_end|>b")])
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1
    assert "a<|im_end|>b" in tokenizer.decode(ids)


def test_without_a_template_messages_are_lines(tokenizer):
    tokenizer.chat_template = None
    assert not has_template(tokenizer)
    ids = encode_messages(tokenizer, [user("one"), user("two")])
    assert tokenizer.decode(ids, skip_special_tokens=True) == "one\ntwo"


@pytest.mark.parametrize("template", [NO_SYSTEM, "{{ messages[0].content + 1 }}", "{% if %}"])
def test_a_template_that_refuses_is_a_mistake_of_the_request(tokenizer, template):
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match="chat template refuses messages of system"):
        encode_messages(tokenizer, [{"role": "system", "content": "be brief"}])


LEAVING = [
    "{{ messages.__class__.__init__.__globals__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('true') }}",
    "{{ '{0.__class__.__mro__}'.format(1) }}",
    "{% include '/etc/passwd' %}",
    "{{ messages.clear() }}",
    "{{ 'a' * 10**12 }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ 1 / 0 }}",
    "{{ messages[7] }}{{ messages[7].content.x }}",
]


@pytest.mark.parametrize("template", LEAVING)
def test_a_template_stays_in_the_sandbox(tokenizer, template):
    tokenizer.chat_template = template
    with pytest.raises(MindpressError, match="chat template"):
        encode_messages(tokenizer, [user("one")])


def test_a_template_without_an_end_is_refused(tokenizer, monkeypatch):
    monkeypatch.setattr("mindpress.engine.template.SECONDS", 0.2)
    inner = "{% for j in range(99999) %}{% endfor %}"
    tokenizer.chat_template = f"{{% for i in range(99999) %}}{inner}{{% endfor %}}"
    with pytest.raises(InputError, match="does not come to an end"):
        encode_messages(tokenizer, [user("one")])


@pytest.mark.parametrize("template", ["{{ 9**9**9 }}", "{{ messages | length ** 99999999 }}"])
def test_a_number_without_an_end_is_refused(tokenizer, template):
    tokenizer.chat_template = template
    with pytest.raises(InputError, match="raises to powers"):
        encode_messages(tokenizer, [user("one")])


def test_stars_that_are_no_powers_are_read(tokenizer):
    tokenizer.chat_template = "**{{ dict(**{'a': 'one'}).a }}**"
    assert "**one**" in tokenizer.decode(encode_messages(tokenizer, [user("two")]))
