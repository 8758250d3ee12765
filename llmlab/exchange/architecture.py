"""What GPT-2, Llama and Mistral have in common: the facts that both sides must agree on."""

from dataclasses import dataclass

FAMILIES = ("gpt2", "llama", "mistral")
# Hugging Face's words for activations, and llmlab's. Their "gelu" is the exact form, too.
ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
    "swish": "silu",
}


@dataclass(frozen=True)
class Architecture:
    """An architecture that both llmlab and Hugging Face can build.

    Attributes
    ----------
    family
        One of `FAMILIES`.
    activation
        By llmlab's name.
    tied
        Whether the head is the token embedding.
    theta, stretch
        Of RoPE: the base, and what positions are divided by.
    window
        How many tokens a token sees, itself included; None for all.
    dropout, attention_dropout, embedding_dropout
        Shares dropped in training: round the layers, of probabilities, after the embedding.
    """

    family: str
    vocab_size: int
    embedding_dim: int
    hidden_dim: int
    max_seq_len: int
    num_blocks: int
    num_heads: int
    num_kv_heads: int
    activation: str
    eps: float
    tied: bool
    attention_bias: bool = True
    feed_forward_bias: bool = True
    theta: float = 10_000.0
    stretch: float = 1.0
    window: int | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    embedding_dropout: float = 0.0

    @property
    def head_dim(self) -> int:
        """Return D, the width of a head."""
        return self.embedding_dim // self.num_heads


@dataclass(frozen=True)
class Names:
    """The dotted names that llmlab's layers have in one model.

    Attributes
    ----------
    blocks
        Names of attention and feed-forward layer, a pair for each block.
    positions
        Only GPT-2 has them.
    """

    tokens: str
    blocks: tuple[tuple[str, str], ...]
    norm: str
    output: str
    positions: str = "positions"

    @classmethod
    def usual(cls, num_blocks: int) -> "Names":
        """Return the names of the presets."""
        pairs = ((f"blocks.{i}.attention", f"blocks.{i}.feed_forward") for i in range(num_blocks))
        return cls("tokens", tuple(pairs), "norm", "output")
