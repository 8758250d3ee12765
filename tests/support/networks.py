"""Networks that several tests build, as a user writes them in YAML."""

from llmlab.layers import build_stack

_NORMAL = {"type": "normal", "std": 0.02}

RUSTGPT = {
    "tokens": {"type": "token_embedding", "init": _NORMAL},
    "positions": {"type": "learned_positions", "init": _NORMAL},
    "blocks": {
        "type": "block",
        "repeat": 3,
        "layers": {
            "attention": {
                "type": "post_norm",
                "norm": {"type": "layer_norm"},
                "layer": {
                    "type": "attention",
                    "num_heads": 1,
                    "bias": False,
                    "output_projection": False,
                    "init": "he",
                },
            },
            "feed_forward": {
                "type": "post_norm",
                "norm": {"type": "layer_norm"},
                "layer": {
                    "type": "feed_forward",
                    "hidden_dim": 256,
                    "activation": "relu",
                    "bias": True,
                    "init": "he",
                },
            },
        },
    },
    "output": {"type": "output_projection", "bias": True, "init": "he"},
}


def gpt_specs(
    *,
    num_heads=4,
    num_kv_heads=2,
    hidden_dim=20,
    num_blocks=2,
    norm="pre_norm",
    dropout=0.0,
    tied=True,
    std=0.3,
):
    """A small pre-norm network: grouped queries, biases, projections, a final norm, a tied head."""
    inner = {"norm": {"type": "layer_norm"}, "dropout": dropout}
    attention = {
        "type": "attention",
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "dropout": dropout,
    }
    table = {"type": "normal", "std": std}
    return {
        "tokens": {"type": "token_embedding", "init": table},
        "positions": {"type": "learned_positions", "init": table},
        **({"dropout": {"type": "dropout", "rate": dropout}} if dropout else {}),
        "blocks": {
            "type": "block",
            "repeat": num_blocks,
            "layers": {
                "attention": {"type": norm, "layer": attention, **inner},
                "feed_forward": {
                    "type": norm,
                    "layer": {"type": "feed_forward", "hidden_dim": hidden_dim},
                    **inner,
                },
            },
        },
        "norm": {"type": "layer_norm"},
        "output": {"type": "tied_output_projection" if tied else "output_projection"},
    }


def gpt_stack(vocab_size=11, embedding_dim=8, max_seq_len=12, **options):
    """Build `gpt_specs`."""
    return build_stack(
        gpt_specs(**options),
        vocab_size=vocab_size,
        embedding_dim=embedding_dim,
        max_seq_len=max_seq_len,
    )


def rustgpt_stack(vocab_size=533, embedding_dim=128, max_seq_len=80):
    """Build RustGPT's network."""
    return build_stack(
        RUSTGPT, vocab_size=vocab_size, embedding_dim=embedding_dim, max_seq_len=max_seq_len
    )
