from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

import mindpress.demo
from mindpress.checkpoint.companions import load_tokenizer
from mindpress.engine.stream import TextStream

TOKENIZER = load_tokenizer(Path(mindpress.demo.__file__).parent / "tiny-llama")
EMOJI = "\N{GRINNING FACE}"


class Scripted:
    """An answer whose tokens are known."""

    def __init__(self, ids):
        self.finish, self.reused, self._script = None, 0, iter(ids)

    def __iter__(self):
        return self

    def __next__(self):
        token = next(self._script, None)
        if token is None:
            self.finish = "length"
            raise StopIteration
        return token


def encoded(text):
    return TOKENIZER.encode(text, add_special_tokens=False)


def streamed(text, stop=()):
    stream = TextStream(Scripted(encoded(text)), TOKENIZER, stop)
    return list(stream), stream


@given(st.text(max_size=60), st.text(min_size=1, max_size=3))
def test_the_text_comes_up_to_the_first_stop_text(text, stop):
    whole = TOKENIZER.decode(encoded(text), skip_special_tokens=True)
    pieces, stream = streamed(text, (stop,))
    if stop in whole:
        assert "".join(pieces) == whole[: whole.index(stop)]
        assert stream.finish == "stop"
    else:
        assert "".join(pieces) == whole
        assert stream.finish == "length"
    assert "" not in pieces


def test_a_stop_text_across_tokens():
    """No token holds it whole, and its beginning is not shown either."""
    ids = encoded("one two three four")
    assert len(ids) >= 4
    pieces, _ = streamed("one two three four", ("wo thr",))
    assert "".join(pieces) == "one t"


def test_the_beginning_of_a_stop_text_at_the_end_is_text():
    pieces, stream = streamed("one two", ("two three",))
    assert "".join(pieces) == "one two"
    assert stream.finish == "length"


def test_an_answer_cut_in_a_character_ends_before_it():
    stream = TextStream(Scripted(encoded(f"so {EMOJI}")[:-1]), TOKENIZER, ())
    assert "".join(stream) == "so "


def test_figures():
    _, stream = streamed("one two three")
    stats = stream.stats(prompt_tokens=5)
    assert stats.new_tokens == len(encoded("one two three"))
    assert stats.prompt_tokens == 5
    assert stats.tokens_per_second > 0
    assert stats.seconds_to_first_token > 0
    fresh = TextStream(Scripted([]), TOKENIZER, ()).stats(5)
    assert (fresh.new_tokens, fresh.tokens_per_second, fresh.finish) == (0, 0, "interrupted")
