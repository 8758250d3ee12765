"""Independent random streams from one seed."""

import hashlib

import numpy as np


def stream(seed: int, *keys: str | int) -> np.random.Generator:
    """Return the generator that belongs to `seed` and `keys`.

    The same arguments give the same numbers, whatever else was drawn before; different keys
    give independent streams. So a stream needs no stored state: the step it is for is a key.
    """
    name = "/".join(f"{type(key).__name__}:{key}" for key in (seed, *keys))
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype="<u4")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words.tolist())))
