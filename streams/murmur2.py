"""On which partition the Java clients, Faust and our producers put a Pin: murmur2 of its id as text."""

import numpy as np
import numpy.typing as npt

from .sources import Ints

_SEED = np.uint32(0x9747B28C)
_M = np.uint32(0x5BD1E995)
_DIGITS = 19
"""Of the largest id, 2**63 - 1."""

Words = npt.NDArray[np.uint32]


def partitions_of(pin_ids: Ints, count: int) -> Ints:
    """Partition of each Pin among `count`, int64 [N].

    `Utils.murmur2` of Apache Kafka's Java client, over columns: all keys of one length at a time.
    """
    texts = np.asarray(pin_ids, np.int64).astype(f"S{_DIGITS}")
    letters = texts.view(np.uint8).reshape(-1, _DIGITS)
    lengths = np.char.str_len(texts)
    hashes = np.zeros(len(texts), np.uint32)
    for length in np.unique(lengths).tolist():
        rows = lengths == length
        hashes[rows] = _murmur2(letters[rows, :length].astype(np.uint32))
    return (hashes & np.uint32(0x7FFFFFFF)).astype(np.int64) % count


def _murmur2(letters: Words) -> Words:
    """Hash of each row of bytes (one a cell), uint32 [N]."""
    length = letters.shape[1]
    with np.errstate(over="ignore"):
        h = np.full(len(letters), _SEED ^ np.uint32(length), np.uint32)
        whole = length // 4 * 4
        for start in range(0, whole, 4):
            k = _word(letters[:, start : start + 4]) * _M
            k ^= k >> np.uint32(24)
            h = h * _M ^ k * _M
        if whole < length:
            h = (h ^ _word(letters[:, whole:])) * _M
        h ^= h >> np.uint32(13)
        h *= _M
        return h ^ h >> np.uint32(15)


def _word(letters: Words) -> Words:
    """Up to four bytes as a little-endian number."""
    word = np.zeros(len(letters), np.uint32)
    for place in range(letters.shape[1]):
        word |= letters[:, place] << np.uint32(8 * place)
    return word
