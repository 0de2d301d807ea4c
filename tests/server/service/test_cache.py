"""The cache keeps what was used last, within its bytes."""

from raq_server.service.cache import LruCache


def test_what_was_asked_for_last_is_kept() -> None:
    cache = LruCache(8 * 100)
    for index in range(100):
        cache.put(bytes([index]), (bytes(49), bytes(50)))
        cache.get(bytes([0]))
    assert cache.get(bytes([0])) == (bytes(49), bytes(50))
    assert cache.get(bytes([1])) is None
    assert cache.get(bytes([99])) is not None


def test_large_entries_are_not_kept() -> None:
    cache = LruCache(8 * 100)
    cache.put(b"large", (bytes(cache.largest_entry + 1),))
    assert cache.get(b"large") is None
