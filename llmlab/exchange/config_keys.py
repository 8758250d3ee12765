"""The keys of config.json: which say something of the network, and which don't matter."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Field:
    """One key that an `Architecture` is made of."""

    name: str  # the attribute of `Architecture`
    kind: str = "int"  # int, float, bool or activation
    # What transformers takes if the key isn't there; `...`: the key must be there.
    default: Any = ...
    # The range of numbers; sizes as in llmlab's own configuration.
    low: float = 1
    high: float = 1_048_576
    optional: bool = False  # whether null means something


def _share(name: str, default: float) -> Field:
    return Field(name, "float", default, low=0, high=0.999)


_VOCABULARY = {"vocab_size": Field("vocab_size", high=2**24)}
_LLAMA = {
    **_VOCABULARY,
    "hidden_size": Field("embedding_dim", high=65_536),
    "intermediate_size": Field("hidden_dim"),
    "num_hidden_layers": Field("num_blocks", high=1_000),
    "num_attention_heads": Field("num_heads", high=1_024),
    "num_key_value_heads": Field("num_kv_heads", default=None, high=1_024, optional=True),
    "head_dim": Field("head_dim", default=None, high=65_536, optional=True),
    "max_position_embeddings": Field("max_seq_len"),
    "hidden_act": Field("activation", "activation", "silu"),
    "rms_norm_eps": Field("eps", "float", 1e-6, low=1e-30, high=1),
    "attention_dropout": _share("attention_dropout", 0.0),
    "tie_word_embeddings": Field("tied", "bool", False),
    "attention_bias": Field("attention_bias", "bool", False),
    "mlp_bias": Field("feed_forward_bias", "bool", False),
}
_WITHOUT_BIASES = {k: v for k, v in _LLAMA.items() if not k.endswith("_bias")}

#: The keys of each family that its `Architecture` is made of.
FIELDS: dict[str, dict[str, Field]] = {
    "gpt2": {
        **_VOCABULARY,
        "n_embd": Field("embedding_dim", high=65_536),
        "n_inner": Field("hidden_dim", default=None, optional=True),
        "n_layer": Field("num_blocks", high=1_000),
        "n_head": Field("num_heads", high=1_024),
        "n_positions": Field("max_seq_len"),
        "activation_function": Field("activation", "activation", "gelu_new"),
        "layer_norm_epsilon": Field("eps", "float", 1e-5, low=1e-30, high=1),
        "resid_pdrop": _share("dropout", 0.1),
        "attn_pdrop": _share("attention_dropout", 0.1),
        "embd_pdrop": _share("embedding_dropout", 0.1),
        "tie_word_embeddings": Field("tied", "bool", True),
    },
    "llama": _LLAMA,
    "mistral": {
        **_WITHOUT_BIASES,
        "sliding_window": Field("window", default=4096, optional=True),
    },
}

#: The model classes whose tensors llmlab knows; the first is what it writes.
CLASSES = {
    "gpt2": ["GPT2LMHeadModel", "GPT2Model"],
    "llama": ["LlamaForCausalLM", "LlamaModel"],
    "mistral": ["MistralForCausalLM", "MistralModel"],
}

#: Keys that change the numbers, with the only value that llmlab computes.
FIXED: dict[str, Any] = {
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "rope_interleaved": False,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
    "tie_encoder_decoder": False,
}

#: The same of single families.
FIXED_IN: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {"sliding_window": None, "use_sliding_window": False},
    "mistral": {"attention_bias": False, "mlp_bias": False},
}

_OTHERS = """
architectures attn_implementation bad_words_ids begin_suppress_tokens bos_token_id
chunk_size_feed_forward cls_token_id cross_attention_hidden_size decoder_start_token_id
diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size eos_token_id
exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
gradient_checkpointing id2label initializer_range is_decoder is_llama_config label2id length_penalty
mask_token_id max_length max_sequence_length min_length model_max_length model_type n_ctx n_special
neftune_noise_alpha no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences
output_attentions output_hidden_states output_past output_scores pad_token_id padding_side
predict_special_tokens prefix pretraining_tp problem_type quantization_config remove_invalid_values
reorder_and_upcast_attn repetition_penalty return_dict return_dict_in_generate sep_token_id
summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
suppress_tokens task_specific_params temperature tf_legacy_loss tokenizer_class top_k top_p
torch_dtype torchscript transformers.js_config transformers_version typical_p unk_token_id
use_bfloat16 use_cache use_return_dict
"""
#: Keys that say nothing about the numbers: of training, of generating, of other tasks, of files.
HARMLESS = frozenset(_OTHERS.split())
#: How keys begin that libraries write for themselves.
PRIVATE = ("_", "unsloth_")
