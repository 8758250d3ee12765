"""What simple methods make of the text that a model is measured on."""

from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from llmlab.measure.compression import compressed_bits
from llmlab.measure.ngrams import ngram_losses


@dataclass(frozen=True)
class Baseline:
    """What a method needs for each token of a text."""

    name: str  # `5-gram`, `lzma`, ...
    loss: float  # nats for each token


def baselines(
    training: NDArray[np.integer],
    text: NDArray[np.integer],
    vocab_size: int,
    training_bytes: bytes | None = None,
    text_bytes: bytes | None = None,
) -> list[Baseline]:
    """Return n-grams of orders 1 to 6 and, given the bytes, compressors.

    All have seen `training` before. They take ids and bytes of the same texts, (N,) and (M,);
    of `text` all but the first token count.
    """
    losses = ngram_losses(training, text, vocab_size)
    found = [Baseline(f"{n}-gram", loss) for n, loss in enumerate(losses, 1)]
    if training_bytes is not None and text_bytes is not None:
        bits = compressed_bits(training_bytes, text_bytes)
        targets = len(text) - 1
        found += [Baseline(name, value * log(2) / targets) for name, value in bits.items()]
    return found
