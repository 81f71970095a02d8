"""A few hundred of the random strings; `python -m tests.stress.streaming` streams 10,000."""

import pytest

from tests.stress.small_tokenizers import KINDS, small_tokenizer
from tests.stress.streaming import DEMO, check, load_tokenizer

RUNS_OF_BYTES = {kind for kind in KINDS if "byte fallback" in kind}


@pytest.mark.parametrize("kind", ["demo", *KINDS])
def test_streamed_text_is_the_decoded_whole(kind):
    tokenizer = load_tokenizer(DEMO) if kind == "demo" else small_tokenizer(kind)
    tally = check(tokenizer, 150, seed=1)
    assert tally.strings == 150
    assert (tally.differing, tally.half_characters, tally.answers_differing) == (0, 0, 0), (
        tally.examples
    )
    if kind not in RUNS_OF_BYTES:
        assert tally.shuffled_differing == 0, tally.examples
