"""A cache of answers in memory, least recently used out first."""

from collections import OrderedDict


class LruCache:
    """Answers by request key, at most `limit_bytes` of keys and answers together.

    >>> cache = LruCache(800)
    >>> cache.put(b"key", (b"first answer", b"second answer"))
    >>> cache.get(b"key")
    (b'first answer', b'second answer')
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._kept: OrderedDict[bytes, tuple[bytes, ...]] = OrderedDict()
        self._size = 0

    @property
    def largest_entry(self) -> int:
        """Bytes of the largest entry that is kept: an eighth of the limit, so that one can't displace all others."""
        return self._limit // 8

    def get(self, key: bytes) -> tuple[bytes, ...] | None:
        """The answers under that key, now the most recently used; None if there are none."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: bytes, answers: tuple[bytes, ...]) -> None:
        """Keep answers, unless they are larger than `largest_entry` or the key is present."""
        size = _size(key, answers)
        if size > self.largest_entry or key in self._kept:
            return
        self._kept[key] = answers
        self._size += size
        while self._size > self._limit:
            self._size -= _size(*self._kept.popitem(last=False))


def _size(key: bytes, answers: tuple[bytes, ...]) -> int:
    return len(key) + sum(map(len, answers))
