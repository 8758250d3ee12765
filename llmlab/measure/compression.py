"""What general compressors make of a text: another thing for a network to beat."""

import bz2
import lzma
import zlib
from collections.abc import Callable

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "zlib": lambda data: zlib.compress(data, 9),
    "bz2": lambda data: bz2.compress(data, 9),
    "lzma": lambda data: lzma.compress(data, preset=6),
}


def compressed_bits(training: bytes, text: bytes) -> dict[str, float]:
    """Return the bits that each compressor needs for `text`, having seen `training` before it.

    That is how much longer the compressed text becomes by it. zlib looks back 32 kB, bz2 sorts
    blocks of 900 kB, lzma remembers 8 MB.
    """
    return {
        name: 8.0 * (len(compress(training + text)) - len(compress(training)))
        for name, compress in COMPRESSORS.items()
    }
