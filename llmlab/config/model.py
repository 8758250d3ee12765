"""The schema of what is configured below the top level: the network, the stages of `full`."""

from dataclasses import dataclass
from typing import Annotated, Any

from llmlab.config.values import Key

MANY = 2**31 - 1


@dataclass(frozen=True)
class ModelKeys:
    """The keys of `model`."""

    name: Annotated[str, Key("name of the preset")]
    embedding_dim: Annotated[int, Key("width of the vectors between layers", low=1, high=65_536)]
    hidden_dim: Annotated[int, Key("width inside the feed-forward layers", low=1, high=1_048_576)]
    max_seq_len: Annotated[
        int, Key("longest sequence that the model can process", low=1, high=1_048_576)
    ]
    num_blocks: Annotated[int, Key("transformer blocks", low=1, high=1_000)]
    num_heads: Annotated[int, Key("attention heads", low=1, high=1_024)]
    num_kv_heads: Annotated[
        int | None, Key("key and value heads; null: num_heads", low=1, high=1_024)
    ]
    dropout: Annotated[float, Key("share of activations dropped in training", low=0, below=1)]
    bias: Annotated[bool, Key("whether maps and norms have biases", optional=True)]
    stack: Annotated[dict[str, Any], Key("the layers, by name")]


@dataclass(frozen=True)
class Stage:
    """The keys of `stages.pretrain` and `stages.tune`."""

    phase: Annotated[str, Key("the stage's name")]
    lr: Annotated[float | None, Key("learning rate", above=0)]
    epochs: Annotated[int | None, Key("passes over the data", low=1, high=MANY)]
    steps: Annotated[int | None, Key("updates, instead of epochs", low=1, high=MANY)]
