"""Find out whether a model of llmlab's is a GPT-2, a Llama or a Mistral."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmlab.errors import CheckpointError
from llmlab.exchange.architecture import ACTIVATIONS, Architecture, Names
from llmlab.layers import LAYERS, POSITIONS
from llmlab.named import entries
from llmlab.registry import Registry, Spec

_KNOWN = "only the networks of the presets gpt2, llama and mistral have a form at Hugging Face"
_FREE = frozenset(("init", "output_init"))  # what decides first values alone


def recognise(model: Mapping[str, Any], vocab_size: int) -> tuple[Architecture, Names]:
    """Return the network that the keys of `model` describe, and its layers' names."""
    reader = _Reader(model, vocab_size)
    found = reader.read()
    if found is None or reader.problems:
        said = "; ".join(dict.fromkeys(reader.problems))
        raise CheckpointError(f"the model can't be exported: {said}; {_KNOWN}")
    return found


class _Reader:
    """Walk through the layers, note what doesn't fit, and collect the rest."""

    def __init__(self, model: Mapping[str, Any], vocab_size: int):
        self.model, self.vocab_size = model, vocab_size
        self.problems: list[str] = []
        self.layers = list(_flat(model["stack"]))

    def read(self) -> tuple[Architecture, Names] | None:
        """Return what was found; None if the order of layers is already another."""
        tokens = self.take("token_embedding")
        positions = self.take("learned_positions", optional=True)
        rate = self.take("dropout", optional=True)
        blocks = []
        while self.layers and self.layers[0][1].get("type") == "pre_norm":
            pair = [self.take("pre_norm"), self.take("pre_norm")]
            if None in pair:
                return None
            blocks.append(pair)
        final = self.take("layer_norm" if positions else "rms_norm") if blocks else None
        output = self.take("tied_output_projection", "output_projection") if final else None
        if not blocks:
            at = self.layers[0] if self.layers else ("stack", {"type": "nothing"})
            self.problems.append(f"{at[0]} is {at[1].get('type')}, where blocks of pre_norm begin")
        self.problems += [f"{name} ({spec.get('type')}) follows" for name, spec in self.layers]
        if tokens is None or output is None or final is None or self.problems:
            return None
        attention, feed_forward = (self.common([pair[i] for pair in blocks]) for i in range(2))
        if self.problems:
            return None
        names = Names(
            tokens[0],
            tuple((one[0], other[0]) for one, other in blocks),
            final[0],
            output[0],
            positions[0] if positions else "",
        )
        self.check_ends(tokens, positions, final, output)
        facts = self.facts(positions is not None, attention, feed_forward)
        if attention["norm"]["eps"] != final[1]["eps"]:
            self.problems.append(f"{final[0]}.eps={final[1]['eps']}: blocks have another one")
        if self.problems:
            return None
        network = Architecture(
            vocab_size=self.vocab_size,
            embedding_dim=self.model["embedding_dim"],
            max_seq_len=positions[1]["max_seq_len"] if positions else self.model["max_seq_len"],
            num_blocks=len(blocks),
            tied=output[1]["type"] == "tied_output_projection",
            embedding_dropout=rate[1]["rate"] if rate else 0.0,
            **facts,
        )
        return network, names

    def take(self, *types: str, optional: bool = False) -> tuple[str, dict[str, Any]] | None:
        """Return the next layer with all its arguments, if it is of one of these types."""
        name, spec = self.layers[0] if self.layers else ("the end", {})
        kind = spec.get("type")
        if kind in types:
            self.layers.pop(0)
            return name, self.complete(LAYERS, spec)
        if not optional:
            self.problems.append(f"{name} is {kind or 'nothing'}, not {' or '.join(types)}")
        return None

    def complete(self, registry: Registry, spec: Spec) -> dict[str, Any]:
        """Return the spec with the defaults of what it doesn't say, also those inside."""
        spec = {"type": spec} if isinstance(spec, str) else spec
        sizes = {key: self.model[key] for key in ("embedding_dim", "max_seq_len", "num_blocks")}
        sizes["vocab_size"] = self.vocab_size
        known = registry.describe(str(spec["type"]))
        result = {key: sizes.get(key, value) for key, value in known.items()} | dict(spec)
        for key, part in registry.nested(result["type"]).items():
            if not part.by_name and isinstance(result[key], Mapping | str):
                result[key] = self.complete(part.registry, result[key])
        return result

    def common(self, blocks: Sequence[Any]) -> dict[str, Any]:
        """Return the spec that all blocks share, and refuse one that differs."""
        (first, spec), *rest = blocks
        self.only(first, spec, layer=..., norm=..., dropout=...)
        for name, other in rest:
            if _without_inits(other) != _without_inits(spec):
                self.problems.append(f"{name} is another layer than {first}")
        return spec

    def only(self, where: str, spec: Mapping[str, Any], **wanted: Any) -> None:
        """Note each argument that is neither wanted (`...`: any value) nor at its default."""
        defaults = self.complete(LAYERS, {"type": spec["type"]})
        for key, value in spec.items():
            allowed = wanted.get(key, defaults.get(key, value))
            if allowed is not ... and key not in _FREE and value != allowed:
                self.problems.append(f"{where}.{key}={value}: must be {allowed}")

    def check_ends(self, tokens: Any, positions: Any, final: Any, output: Any) -> None:
        """Check the layers before and after the blocks."""
        self.only(*tokens)
        if positions:
            self.only(*positions, max_seq_len=...)
        self.only(*final, eps=..., bias=...)
        if output[1]["type"] == "tied_output_projection":
            self.only(*output, tied_to=f"{tokens[0]}.weight")
        else:
            self.only(*output, bias=False)

    def facts(
        self, gpt2: bool, attention: Mapping[str, Any], feed_forward: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return what the two layers of a block say."""
        heads, ff = attention["layer"], feed_forward["layer"]
        kinds = ("layer_norm", "feed_forward") if gpt2 else ("rms_norm", "gated_feed_forward")
        found = (attention["norm"]["type"], feed_forward["norm"]["type"], heads["type"], ff["type"])
        for wanted, is_now in zip((kinds[0], kinds[0], "attention", kinds[1]), found, strict=True):
            if wanted != is_now:
                has = "learned positions" if gpt2 else "no learned positions"
                self.problems.append(f"a block has {is_now}: with {has} it must be {wanted}")
        if self.problems:
            return {}
        if attention["norm"] != feed_forward["norm"]:
            self.problems.append("the norms of a block differ")
        if attention["dropout"] != feed_forward["dropout"]:
            self.problems.append("attention and feed_forward: their dropout differs")
        for where, spec in (("attention.norm", attention), ("feed_forward.norm", feed_forward)):
            self.only(where, spec["norm"], eps=..., bias=...)
        free = dict.fromkeys(("num_heads", "num_kv_heads", "bias", "dropout", "positions"), ...)
        self.only("attention", heads, **free, window=None if gpt2 else ..., output_projection=True)
        self.only("feed_forward", ff, hidden_dim=..., activation=..., bias=...)
        num_heads = heads["num_heads"]
        num_kv_heads = num_heads if heads["num_kv_heads"] is None else heads["num_kv_heads"]
        if gpt2 and num_kv_heads != num_heads:
            self.problems.append(f"attention.num_kv_heads={num_kv_heads}: must be {num_heads}")
        activation = ff["activation"]
        if isinstance(activation, Mapping) and len(activation) == 1:
            activation = activation["type"]
        if activation not in ACTIVATIONS.values():
            known = ", ".join(dict.fromkeys(ACTIVATIONS.values()))
            self.problems.append(f"feed_forward.activation={activation}: must be one of {known}")
        window = heads["window"]
        # Mistral is Llama with a window, but it has no biases.
        biased = heads["bias"] or ff["bias"]
        if window is not None and biased and not gpt2:
            self.problems.append("a window together with biases: set bias: false")
        return {
            "family": "gpt2" if gpt2 else "llama" if window is None else "mistral",
            "hidden_dim": ff["hidden_dim"],
            "num_heads": num_heads,
            "num_kv_heads": num_kv_heads,
            "activation": activation,
            "eps": attention["norm"]["eps"],
            "attention_bias": gpt2 or heads["bias"],
            "feed_forward_bias": gpt2 or ff["bias"],
            "window": window,
            "dropout": attention["dropout"],
            "attention_dropout": heads["dropout"],
            **self.rope(gpt2, heads["positions"], self.model["embedding_dim"] // num_heads),
        }

    def rope(self, gpt2: bool, spec: Any, head_dim: int) -> dict[str, float]:
        """Return theta and stretch; with learned positions there is nothing to say."""
        spec = self.complete(POSITIONS, "none" if spec is None else spec)
        if gpt2 or spec["type"] != "rope":
            if spec["type"] != ("none" if gpt2 else "rope"):
                wanted = "none beside learned ones" if gpt2 else "rope"
                self.problems.append(f"attention.positions: {spec['type']}, must be {wanted}")
            return {}
        if spec["interleaved"]:
            self.problems.append("attention.positions.interleaved=True: must be False")
        theta, factor, d = spec["theta"], spec["factor"], head_dim
        if spec["scaling"] == "ntk":  # to transformers it is just another theta
            return {"theta": theta * factor ** (d / (d - 2))}
        return {"theta": theta, "stretch": factor if spec["scaling"] == "linear" else 1.0}


def _flat(parts: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield dotted names and specs of the layers, those of repeated blocks one by one."""
    for name, _, spec in entries(parts, "model.stack", LAYERS):
        if spec.get("type") == "block":
            yield from _flat(spec["layers"], f"{before}{name}.")
        else:
            yield before + name, spec


def _without_inits(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_inits(v) for k, v in value.items() if k not in _FREE}
    return value
