"""Everything that the page of a look shows, as plain values."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmlab import build
from llmlab.batch import Batch
from llmlab.inspect import (
    Trace,
    attribute,
    effects,
    head_scores,
    lens,
    log_softmax,
    neighbours,
    parts_of,
    repeated_tokens,
    sparsity,
    token_losses,
    top_tokens,
    trace,
)
from llmlab.inspect.ablation import Part, ablated
from llmlab.inspect.findings import habits, troubles
from llmlab.inspect.heads import HeadScores
from llmlab.inspect.lens import Lens, surprise
from llmlab.network import Network
from llmlab.phases.answering import on_one_line
from llmlab.phases.chat.terminal import printable
from llmlab.phases.summary import own_parameters
from llmlab.report.inspect_page import rounded

_TOP, _NEAR = 8, 5
_PERIOD, _REPEATS = 24, 4  # of the random tokens that tell heads' habits
_FEWEST = 12  # tokens to draw these from


class Look:
    """A network, looked at while it reads a text."""

    def __init__(
        self,
        model: build.Model,
        network: Network,
        ids: Sequence[int],
        rows: Batch | None,  # to measure effects on the loss on; None: there are no effects
        notes: list[str],  # what is to be said of how it was done
        name: str,
    ):
        self._model, self._network = model, network
        self.ids, self.rows = np.asarray(ids), rows
        self._notes, self._name = notes, name
        with np.errstate(all="ignore"):  # a broken network has a page that says so
            self._trace: Trace = trace(network, ids)
        self.maps = np.concatenate([np.zeros((0, len(ids), len(ids))), *self._trace.maps.values()])

    def content(self) -> dict[str, Any]:
        """Return all of it; of a network that overflows, what is left."""
        with np.errstate(all="ignore"):
            return self._content()

    def _content(self) -> dict[str, Any]:
        found = self._trace
        readings = lens(self._network, found)
        scores = dict(head_scores(self._network, self.repeated))
        losses = surprise(found.logits, found.ids)
        places, chances = top_tokens(found.logits, _TOP)
        attribution = attribute(self._network, found)
        if any(path.endswith(".norm") for path in attribution.frozen):
            self._notes.append(
                "The stream passes norms on its way; for what each part adds, these are held at "
                f"what they have done here: {', '.join(attribution.frozen)}."
            )
        targets = np.append(found.ids[1:], np.argmax(found.logits[-1]))
        parts = parts_of(self._network)
        return {
            "title": f"Inside {self._model.spec['name']}",
            "checkpoint": self._name,
            "notes": self._notes,
            "findings": [*troubles(self._network, found, readings), *habits(scores)],
            "loss": rounded(float(losses.mean()), 6),
            "tokens": self._tokens(found.ids),
            "targets": self._tokens(targets),
            "surprise": rounded(losses),
            "top": [
                [[self.shown(i), rounded(p, 4)] for i, p in zip(row, own, strict=True)]
                for row, own in zip(places.tolist(), chances.tolist(), strict=True)
            ],
            "lens": self._lens(readings, targets),
            "heads": self._heads(parts, scores),
            "parts": {
                "names": attribution.names,
                "share": rounded(attribution.logits(targets, centred=True)),
            },
            "without": self._without(parts, targets),
            "shape": self._shape(),
            "routing": {path: rounded(each) for path, each in found.routing.items()},
            "units": self._units(),
            "neighbours": self._neighbours(),
        }

    def cut(self, content: dict[str, Any], tokens: int | None) -> tuple[dict[str, Any], np.ndarray]:
        """Return the content and the maps of the last tokens alone; all of them if None."""
        if tokens is None:
            return content, self.maps
        end = slice(-tokens, None)
        note = f"To keep this page small, it shows the last {tokens} tokens of {len(self.ids)}."
        cut = content | {"notes": [*content["notes"], note]}
        for key in ("tokens", "targets", "top"):
            cut[key] = content[key][end]
        cut["surprise"] = content["surprise"][1 - tokens :]
        reading = content["lens"]
        rows = {key: [row[end] for row in reading[key]] for key in ("kl", "norm", "top", "loss")}
        cut["lens"] = reading | rows
        for key in ("parts", "without"):
            cut[key] = content[key] | {"share": [row[end] for row in content[key]["share"]]}
        cut["routing"] = {path: rows[end] for path, rows in content["routing"].items()}
        cut.pop("against", None)
        return cut, self.maps[:, end, end]

    def shown(self, id: int) -> str:
        """Return a token as the page writes it."""
        return printable(on_one_line(self._model.tokenizer.token(int(id))))

    def _tokens(self, ids: Any) -> list[str]:
        return [self.shown(id) for id in ids]

    @property
    def repeated(self) -> list[np.ndarray]:
        """Random tokens that are repeated, for the habits of heads; none where they don't fit.

        They are those of the rows that are measured, if these have enough.
        """
        tokenizer = self._model.tokenizer
        known = np.empty(0) if self.rows is None else np.unique(self.rows.inputs)
        tokens = known if len(known) > _FEWEST else tokenizer.vocab_size
        longest = min(_PERIOD, self._model.max_seq_len // 2)
        found: list[np.ndarray] = []
        for period in (longest, longest * 2 // 3):
            if period > 1:
                found += [*repeated_tokens(tokens, period, _REPEATS, 0, (tokenizer.end_id,))]
        return found

    def _lens(self, readings: list[Lens], targets: np.ndarray) -> dict[str, Any]:
        tops = [top_tokens(each.logits, 1) for each in readings]
        places = np.arange(len(targets))
        losses = [-log_softmax(each.logits)[places, targets] for each in readings]
        return {
            "paths": [each.path for each in readings],
            "loss": rounded(losses),
            "kl": rounded([each.divergence for each in readings]),
            "norm": rounded([each.norm for each in readings]),
            "top": [self._tokens(order[:, 0]) for order, _ in tops],
        }

    def _heads(self, parts: list[Part], scores: dict[str, HeadScores]) -> list[dict[str, Any]]:
        measured: dict[str, Any] = {}
        if self.rows is not None:
            measured["zero"] = effects(self._network, self.rows, parts=parts)
            measured["mean"] = effects(self._network, self.rows, mean=True, parts=parts)
        rows = []
        for part in parts:
            row: dict[str, Any] = {"name": part.name, "path": part.path, "head": part.head}
            for kind, found in measured.items():
                row[kind], row[f"{kind}_error"] = rounded([*found[part]], 4)
            if part.head is not None and part.path in scores:
                own = scores[part.path]._asdict()
                row |= {key: rounded(float(each[part.head])) for key, each in own.items()}
            rows.append(row)
        return rows

    def _without(self, parts: list[Part], targets: np.ndarray) -> dict[str, Any]:
        """Return what the nats of each token rise by without each part, on this text."""
        row = (self.ids[None], targets[None], np.ones((1, len(targets)), np.float32))
        batch = Batch(*row)
        before = token_losses(self._network, batch)[0]
        rows = []
        for part in parts:
            with ablated(self._network, part):
                rows.append(token_losses(self._network, batch)[0] - before)
        return {"names": [part.name for part in parts], "share": rounded(np.array(rows))}

    def _shape(self) -> list[list[Any]]:
        norms = {path: float(np.linalg.norm(a)) for path, a in self._model.params.items()}
        rows = []
        for path, layer in self._network.stack.leaves():
            own = [each for name, each in norms.items() if name.startswith(f"{path}.")]
            size = float(np.sqrt(sum(each**2 for each in own)))
            rows.append([path, type(layer).__name__, own_parameters(layer), rounded(size)])
        return rows

    def _units(self) -> list[list[Any]]:
        rows = []
        for path, hidden in self._trace.hidden.items():
            share, dead = sparsity(hidden)
            rows.append([path, len(dead), int(dead.sum()), rounded(share)])
        return rows

    def _neighbours(self) -> dict[str, list[Any]]:
        table = self._model.params.views.get("tokens.weight")
        if table is None:
            return {}
        found = {}
        for id in dict.fromkeys(self.ids.tolist()):
            near = neighbours(table, id, _NEAR)
            found[self.shown(id)] = [[self.shown(n), rounded(cosine)] for n, cosine in near]
        return found
