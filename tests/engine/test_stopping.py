from hypothesis import given
from hypothesis import strategies as st

from mindpress.engine.stopping import StopTexts

LETTERS = st.text("ab", max_size=6)


def passed(stop, pieces):
    stops, given_text = StopTexts(stop), ""
    for piece in pieces:
        given_text += stops.push(piece)
        if stops.found:
            return given_text, True
    return given_text + stops.finish(), False


@given(st.lists(LETTERS), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_first_stop_text_however_it_is_cut(pieces, stop):
    text = "".join(pieces)
    places = [text.find(word) for word in stop if word in text]
    # Piece by piece the stop text that is complete first ends it, not the one that begins first.
    ends = [text.find(word) + len(word) for word in stop if word in text]
    got, found = passed(stop, list(text))
    assert found == bool(places)
    if not found:
        assert got == text
    else:
        word_ended = min(ends)
        assert got == text[: min(p for p, e in zip(places, ends, strict=True) if e == word_ended)]
    assert passed(stop, pieces)[1] == found


def test_text_is_passed_on_as_soon_as_it_cannot_begin_a_stop_text():
    stops = StopTexts(["</s>", "User:"])
    assert stops.push("Hello </") == "Hello "
    assert stops.push("b> Us") == "</b> "
    assert stops.push("ing") == "Using"
    assert stops.push(" User") == " "
    assert stops.push(": no") == ""
    assert stops.found


def test_without_stop_texts_nothing_is_held_back():
    stops = StopTexts([])
    assert stops.push("abc") == "abc"
    assert stops.finish() == ""
