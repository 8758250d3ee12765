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
    """An architecture that both llmlab and Hugging Face can build."""

    family: str  # one of `FAMILIES`
    vocab_size: int
    embedding_dim: int
    hidden_dim: int
    max_seq_len: int
    num_blocks: int
    num_heads: int
    num_kv_heads: int
    activation: str  # by llmlab's name
    eps: float
    tied: bool  # whether the head is the token embedding
    attention_bias: bool = True
    feed_forward_bias: bool = True
    # Of RoPE: the base, and what positions are divided by
    theta: float = 10_000.0
    stretch: float = 1.0
    window: int | None = None  # how many tokens a token sees, itself included; None for all
    # Shares dropped in training: round the layers, of probabilities, after the embedding
    dropout: float = 0.0
    attention_dropout: float = 0.0
    embedding_dropout: float = 0.0

    @property
    def head_dim(self) -> int:
        """Return D, the width of a head."""
        return self.embedding_dim // self.num_heads


@dataclass(frozen=True)
class Names:
    """The dotted names that llmlab's layers have in one model."""

    tokens: str
    # Names of attention and feed-forward layer, a pair for each block
    blocks: tuple[tuple[str, str], ...]
    norm: str
    output: str
    positions: str = "positions"  # only GPT-2 has them

    @classmethod
    def usual(cls, num_blocks: int) -> "Names":
        """Return the names of the presets."""
        pairs = ((f"blocks.{i}.attention", f"blocks.{i}.feed_forward") for i in range(num_blocks))
        return cls("tokens", tuple(pairs), "norm", "output")
