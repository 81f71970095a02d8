"""Pages of a cache: who uses which, and which hold the beginning of a text that was read before."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence

# The page before (None: the text begins here), the salt of the text, the tokens of the page. The
# number of a page is its identity: no entry outlives the one of the page before it.
Key = tuple[int | None, Hashable, tuple[int, ...]]


class PagePool:
    """`pages` pages of `tokens` tokens each, counted by how many sequences hold them.

    A full page can be indexed, and is then found by every text with the same tokens up to its end
    and the same salt; tokens themselves are compared, so that no two texts are ever mistaken for
    one another. Indexed pages that nobody holds stay until a page is wanted, and go least recently
    used first, the end of a text before its beginning.

    Every call costs as much as the pages it is about. Sequences give back all their pages at once,
    or those at their end: whoever holds an indexed page then holds all before it, and an entry that
    goes never leaves a later one behind.

    Source: the order of eviction is that of vLLM's block pool (Kwon et al. 2023, "Efficient Memory
    Management for Large Language Model Serving with PagedAttention").
    """

    def __init__(self, pages: int, tokens: int) -> None:
        self.pages, self.tokens = pages, tokens
        self._free = list(range(pages - 1, -1, -1))
        self._users = [0] * pages
        self._page_of: dict[Key, int] = {}
        self._key_of: dict[int, Key] = {}
        # Indexed and held by nobody, least recently used first. `give_back` enters the end of a
        # text first; its beginning is held at least as long, so it always stands behind it.
        self._unused: OrderedDict[int, None] = OrderedDict()

    @property
    def available(self) -> int:
        """Pages that can be had: free ones, and indexed ones that nobody holds."""
        return len(self._free) + len(self._unused)

    @property
    def used(self) -> int:
        """Pages that somebody holds."""
        return self.pages - self.available

    def users(self, page: int) -> int:
        """How many sequences hold it."""
        return self._users[page]

    def pages_for(self, tokens: int) -> int:
        """How many pages so many tokens fill, the last one perhaps in part."""
        return -(-tokens // self.tokens)

    def find(self, tokens: Sequence[int], salt: Hashable = None) -> list[int]:
        """Pages of the longest indexed beginning of `tokens`; the caller holds them from now on."""
        found: list[int] = []
        before = None
        for place in range(len(tokens) // self.tokens):
            before = self._page_of.get((before, salt, self._cut(tokens, place)))
            if before is None:
                break
            found.append(before)
        for page in found:
            self._hold(page)
        return found

    def take(self, count: int) -> list[int] | None:
        """So many pages with nothing in them; None, and no change, when there are not enough."""
        if count > self.available:
            return None
        return [self._take_one() for _ in range(count)]

    def index(
        self, pages: Sequence[int], tokens: Sequence[int], known: int = 0, salt: Hashable = None
    ) -> list[int]:
        """Let the pages from place `known` on be found, which hold `tokens`; returns what the
        sequence holds in their place.

        That is another page where an equal one was indexed before, by a sequence that read the
        same at the same time: the caller goes on with that one, its own is given back. `tokens` are
        only those from place `known` on; the `known` pages before were found, or went through here.
        After `forget` they are not indexed, and what follows them is not either.
        """
        before = pages[known - 1] if known else None
        count = len(tokens) // self.tokens
        held = list(pages[known : known + count])
        if before is not None and before not in self._key_of:
            return held
        for place, page in enumerate(held):
            key = (before, salt, self._cut(tokens, place))
            indexed = self._page_of.get(key)
            if indexed is None:
                if page in self._key_of or self._users[page] > 1:
                    break  # from before a `forget`: who else holds it may hold others before it
                self._page_of[key], self._key_of[page] = page, key
            elif indexed != page:
                self._hold(indexed)
                self.give_back([page])
                held[place] = indexed
            before = held[place]
        return held

    def give_back(self, pages: Sequence[int]) -> None:
        """The pages of a sequence, in their order, are no longer held by it."""
        for page in reversed(pages):
            self._users[page] -= 1
            if self._users[page]:
                continue
            if page in self._key_of:
                self._unused[page] = None
            else:
                self._free.append(page)

    def forget(self) -> None:
        """Nothing that is stored now is found any more; who holds pages keeps them."""
        self._page_of.clear()
        self._key_of.clear()
        self._free += self._unused
        self._unused.clear()

    def _cut(self, tokens: Sequence[int], place: int) -> tuple[int, ...]:
        return tuple(tokens[place * self.tokens : (place + 1) * self.tokens])

    def _hold(self, page: int) -> None:
        self._users[page] += 1
        self._unused.pop(page, None)

    def _take_one(self) -> int:
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._unused.popitem(last=False)
            del self._page_of[self._key_of.pop(page)]
        self._users[page] = 1
        return page
