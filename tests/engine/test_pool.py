from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mindpress.engine.pool import PagePool

TOKENS = 4
TEXT = list(range(12))


def stored(pool, tokens, salt=None):
    """A text that was read and is indexed, and still held."""
    pages = pool.take(pool.pages_for(len(tokens)))
    full = len(tokens) // pool.tokens
    pages[:full] = pool.index(pages, tokens, salt=salt)
    return pages


def test_all_pages_can_be_taken_once_and_no_more():
    pool = PagePool(5, TOKENS)
    assert sorted(pool.take(3) + pool.take(2)) == [0, 1, 2, 3, 4]
    assert (pool.available, pool.used) == (0, 5)
    assert pool.take(1) is None


def test_too_large_a_wish_changes_nothing():
    pool = PagePool(5, TOKENS)
    cached = stored(pool, TEXT)
    pool.give_back(cached)
    assert pool.take(6) is None
    assert (pool.available, pool.used) == (5, 0)
    assert pool.find(TEXT) == cached


def test_full_pages_of_an_equal_beginning_are_found():
    pool = PagePool(8, TOKENS)
    pages = stored(pool, TEXT[:11])
    assert pool.find(TEXT) == pages[:2]
    assert pool.find([*TEXT[:7], 99]) == pages[:1]
    assert pool.find([99, *TEXT[1:]]) == []
    assert pool.find(TEXT[:3]) == []
    assert [pool.users(page) for page in pages] == [3, 2, 1]


def test_equal_tokens_after_another_beginning_are_another_page():
    pool = PagePool(8, TOKENS)
    first, second = [1] * 4, [2] * 4
    one, two = stored(pool, first + second), stored(pool, second + second)
    assert len({*one, *two}) == 4
    assert pool.find(second + second) == two
    assert pool.find(first + second) == one
    assert pool.find(first + first) == one[:1]


def test_texts_of_different_salt_share_nothing():
    pool = PagePool(8, TOKENS)
    plain, salted = stored(pool, TEXT), stored(pool, TEXT, salt=1)
    assert not {*plain} & {*salted}
    assert pool.find(TEXT) == plain
    assert pool.find(TEXT, salt=1) == salted
    assert pool.find(TEXT, salt=2) == []


def test_equal_pages_written_at_the_same_time_become_one():
    pool = PagePool(8, TOKENS)
    first = pool.take(3)
    second = pool.take(3)
    assert pool.index(first, TEXT[:8]) == first[:2]
    assert pool.index(second, TEXT[:8]) == first[:2]
    assert pool.users(first[0]) == 2
    assert pool.used == 4
    # And what one of them reads further is found behind the common pages.
    second[:2] = first[:2]
    assert pool.index(second, TEXT[8:], known=2) == second[2:]
    assert pool.find(TEXT) == second


def test_pages_nobody_holds_stay_until_they_are_wanted():
    pool = PagePool(4, TOKENS)
    pages = stored(pool, TEXT)
    pool.give_back(pages)
    assert (pool.available, pool.used) == (4, 0)
    pool.take(1)
    assert pool.find(TEXT) == pages


def test_the_least_recently_used_text_goes_first():
    pool = PagePool(4, TOKENS)
    old, new = stored(pool, [1] * 8), stored(pool, [2] * 8)
    pool.give_back(old)
    pool.give_back(new)
    pool.give_back(pool.find([1] * 8))
    pool.take(2)
    assert pool.find([2] * 8) == []
    assert pool.find([1] * 8) == old


def test_the_end_of_a_text_goes_before_its_beginning():
    pool = PagePool(3, TOKENS)
    pages = stored(pool, TEXT)
    pool.give_back(pages)
    for left in (2, 1, 0):
        pool.take(1)
        found = pool.find(TEXT)
        assert found == pages[:left]
        pool.give_back(found)


def test_a_page_that_is_held_is_never_taken():
    pool = PagePool(3, TOKENS)
    pages = stored(pool, TEXT[:8])
    assert pool.find(TEXT[:8]) == pages
    pool.give_back(pages)
    assert pool.take(2) is None
    assert not {*pool.take(1)} & {*pages}


def test_after_forget_nothing_is_found_and_holders_keep_their_pages():
    pool = PagePool(6, TOKENS)
    cached, held = stored(pool, [7] * 4), stored(pool, TEXT[:8])
    pool.give_back(cached)
    assert pool.find(TEXT[:8]) == held
    pool.forget()
    assert pool.find(TEXT) == []
    assert pool.find([7] * 4) == []
    assert pool.used == 2
    # What follows pages that are forgotten, or is shared since before, cannot be found later.
    longer = held + pool.take(1)
    assert pool.index(longer, TEXT[8:], known=2) == longer[2:]
    assert pool.index(held, TEXT[:8]) == held
    assert pool.find(TEXT) == []
    pool.give_back(longer)
    pool.give_back(held)
    assert (pool.available, pool.used) == (6, 0)
    # Not even when the forgotten page begins another text.
    for page in pool.take(5):
        assert pool.index([page], [page] * 4) == [page]
        assert pool.find([page] * 4 + TEXT[8:]) == [page]


SHORT_TEXTS = st.lists(st.integers(0, 1), min_size=1, max_size=14)
SALTS = st.sampled_from([None, 1])


class Pools(RuleBasedStateMachine):
    """Sequences that find, write, index and give back; `content` is what the pages really hold."""

    def __init__(self):
        super().__init__()
        self.pool = PagePool(9, 2)
        self.held = []
        self.content = {}

    @rule(text=SHORT_TEXTS, salt=SALTS)
    def begin(self, text, salt):
        found = self.pool.find(text, salt)
        for place, page in enumerate(found):
            assert self.content[page] == (salt, text[: (place + 1) * 2])
        available, wanted = self.pool.available, self.pool.pages_for(len(text)) - len(found)
        taken = self.pool.take(wanted)
        assert (taken is None) == (wanted > available)
        if taken is None:
            self.pool.give_back(found)
            return
        pages = found + taken
        for place in range(len(found), len(pages)):
            self.content[pages[place]] = (salt, text[: (place + 1) * 2])
        self.held.append([pages, text, salt, len(found)])

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def index_some(self, data):
        sequence = data.draw(st.sampled_from(self.held))
        pages, text, salt, known = sequence
        full = data.draw(st.integers(known, len(text) // 2))
        pages[known:full] = self.pool.index(pages, text[known * 2 : full * 2], known, salt)
        sequence[3] = full
        for place in range(full):
            assert self.content[pages[place]] == (salt, text[: (place + 1) * 2])

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def end(self, data):
        sequence = data.draw(st.sampled_from(self.held))
        self.held.remove(sequence)
        self.pool.give_back(sequence[0])

    @rule()
    def forget(self):
        self.pool.forget()
        assert self.pool.find([0, 0]) == self.pool.find([1, 1]) == []

    @invariant()
    def every_page_is_counted_by_its_holders(self):
        holders = Counter(page for pages, *_ in self.held for page in pages)
        assert [self.pool.users(page) for page in range(9)] == [holders[page] for page in range(9)]
        assert self.pool.used == len(holders)

    def teardown(self):
        for pages, *_ in self.held:
            self.pool.give_back(pages)
        assert self.pool.used == 0
        assert sorted(self.pool.take(9)) == list(range(9))


TestPools = Pools.TestCase
TestPools.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, derandomize=True
)
