"""The Python interface, on the demo's model: a real one, trained, with its tokenizer."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import mindpress
import mindpress.demo
from mindpress import EngineConfig, GenerationConfig
from mindpress.engine.chat import open_chat
from mindpress.errors import ConfigError

MODEL = Path(mindpress.demo.__file__).parent / "tiny-llama"
GREEDY = GenerationConfig(max_new_tokens=16, temperature=0.0)
QUESTIONS = ["Once upon a time", "The river", "In 1999 the band"]


@pytest.fixture(scope="module")
def pipe():
    return mindpress.pipeline(MODEL, EngineConfig("cpu", max_batch_size=4), GREEDY)


def test_a_list_is_answered_in_its_order_and_as_the_chat_answers(pipe):
    answers = pipe(QUESTIONS)
    assert [answer.index for answer in answers] == [0, 1, 2]
    for question, answer in zip(QUESTIONS, answers, strict=True):
        chat = open_chat(MODEL, EngineConfig("cpu"))
        assert answer.text == "".join(chat.ask(question, GREEDY))
        assert answer.generate_token_len == len(answer.token_ids) > 0
        assert answer.input_token_len > 0


def test_one_prompt_gives_one_answer_and_a_list_of_one_a_list(pipe):
    assert pipe(QUESTIONS[0]).text == pipe([QUESTIONS[0]])[0].text


def test_messages_are_a_prompt(pipe):
    messages = [{"role": "user", "content": QUESTIONS[0]}]
    assert pipe(messages).text == pipe(QUESTIONS[0]).text
    longer = [*messages, {"role": "assistant", "content": "Yes"}, *messages]
    several = pipe([messages, longer])
    assert several[0].text == pipe(QUESTIONS[0]).text
    assert several[1].input_token_len > several[0].input_token_len


def test_pieces_of_the_stream_make_the_answer(pipe):
    texts = ["", "", ""]
    finish = {}
    for piece in pipe.stream_infer(QUESTIONS):
        assert piece.index not in finish
        texts[piece.index] += piece.text
        if piece.finish_reason:
            finish[piece.index] = piece.finish_reason
    assert texts == [answer.text for answer in pipe(QUESTIONS)]
    assert set(finish.values()) <= {"length", "eos"}
    assert len(finish) == 3


def test_who_stops_reading_stops_the_answers(pipe):
    stream = pipe.stream_infer(QUESTIONS)
    next(stream)
    assert pipe.runtime.pool.used > 0
    stream.close()
    assert pipe.runtime.idle
    assert pipe.runtime.pool.used == 0


def test_streams_and_calls_in_one_another(pipe):
    """Each hears of its own answers, whoever computed the step."""
    alone = [pipe(question).text for question in QUESTIONS]
    first, second = pipe.stream_infer(QUESTIONS[0]), pipe.stream_infer(QUESTIONS[1])
    texts = [next(first).text, next(second).text]
    assert pipe(QUESTIONS[2]).text == alone[2]
    texts[0] += "".join(piece.text for piece in first)
    texts[1] += "".join(piece.text for piece in second)
    assert texts == alone[:2]


def test_threads_share_a_pipeline(pipe):
    alone = [pipe(question).text for question in QUESTIONS] * 4
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda question: pipe(question).text, QUESTIONS * 4))
    assert found == alone
    assert pipe.runtime.idle


def test_a_stop_text_ends_the_answer(pipe):
    whole = pipe(QUESTIONS[0]).text
    stop = whole[len(whole) // 2 :][:3]
    answer = pipe(QUESTIONS[0], GenerationConfig(16, temperature=0.0, stop=(stop,)))
    assert answer.text == whole[: whole.index(stop)]
    assert answer.finish_reason == "stop"
    assert pipe.runtime.idle


def test_several_answers_to_a_prompt(pipe):
    config = GenerationConfig(12, temperature=1.5, top_k=0, top_p=1.0, seed=4, n=3)
    answers = pipe(QUESTIONS[:2], config)
    assert [answer.index for answer in answers] == list(range(6))
    assert len({answer.text for answer in answers[:3]}) > 1
    again = pipe(QUESTIONS[0], GenerationConfig(12, temperature=1.5, top_k=0, top_p=1.0, seed=5))
    assert again.text == answers[1].text


def test_logprobs_have_one_entry_per_token(pipe):
    answer = pipe(QUESTIONS[0], GenerationConfig(5, temperature=0.0, logprobs=2))
    assert len(answer.logprobs) == len(answer.token_ids)
    assert answer.logprobs[0].top[answer.token_ids[0]] == answer.logprobs[0].chosen <= 0
    assert pipe(QUESTIONS[0]).logprobs is None


def test_what_is_no_prompt_is_named():
    """In a process where nothing but our own check looks at types."""
    code = """if True:
        import sys, mindpress
        from mindpress.errors import ConfigError
        pipe = mindpress.pipeline(sys.argv[1], mindpress.EngineConfig("cpu"))
        bad_message = [{"role": "user", "content": None}]
        for bad in ([3], [["text"]], [{"role": "user"}], [None], [["a"], "b"], [bad_message]):
            try:
                pipe(bad)
            except ConfigError as error:
                assert "list of messages" in str(error) and pipe.runtime.idle
            else:
                sys.exit(f"{bad} was taken")
        for bad in (5, None, iter(["a"])):
            try:
                pipe(bad)
            except ConfigError as error:
                assert "prompts are a text" in str(error)
            else:
                sys.exit(f"{bad} was taken")
    """
    subprocess.run([sys.executable, "-c", code, MODEL], check=True)


def test_a_prompt_that_does_not_fit_leaves_no_other_behind(pipe):
    with pytest.raises(ConfigError, match="tokens"):
        pipe([QUESTIONS[0], "word " * 3000])
    assert pipe.runtime.idle


def test_no_prompts_give_no_answers(pipe):
    assert pipe([]) == []


def test_the_package_loads_no_torch_before_it_is_used():
    code = "import mindpress, sys; mindpress.GenerationConfig(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_values_of_other_types_are_named():
    """In a process where nothing but our own check looks at types."""
    code = """if True:
        import sys, mindpress
        from mindpress.errors import ConfigError
        engine = {"device": "gpu", "quant_policy": 7, "session_len": 100.5, "threads": "2",
                  "tp": 2.0, "kernels": "cpu_int8", "cache_memory": "1GiB", "max_batch_size": True}
        answer = {"n": 1.5, "top_k": 2.5, "logprobs": True, "stop": " of", "seed": 1.5,
                  "max_new_tokens": None, "temperature": "hot"}
        for kind, wrong in ((mindpress.EngineConfig, engine), (mindpress.GenerationConfig, answer)):
            for name, value in wrong.items():
                try:
                    kind(**{name: value})
                except ConfigError as error:
                    assert str(error).startswith(f"{name} {value!r}: must be"), error
                else:
                    sys.exit(f"{name}={value!r} was taken")
        mindpress.GenerationConfig(temperature=1, stop=("a",), seed=None)
        mindpress.EngineConfig(quant_policy=8, cache_max_entry_count=0.5)
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_more_threads_than_any_machine_has_are_refused():
    with pytest.raises(ConfigError, match="--threads 100000: must be 1024 or fewer"):
        EngineConfig(threads=100000)
