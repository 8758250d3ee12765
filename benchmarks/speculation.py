"""Decoding with guesses (`draft=`) against plain decoding, tokens per second.

    python benchmarks/speculation.py RUN TEXT [--draft RUN ...] [--batch 1 4] [--tokens 200]
                                     [--guess 5] [--prompts 8] [--rounds 9]

RUN is a trained run, or a checkpoint of one. TEXT is what prompts are taken from: of chats (.json,
.jsonl) the questions, of other text pieces of half a context. `--draft` names smaller runs with the
same tokenizer. All run in this process, on one core and in turns. Processor time is counted; a
ratio is a median over the rounds, with quartiles. Greedy decoding must find the same tokens before
anything is timed.
"""

import argparse
from itertools import islice
from pathlib import Path
from time import process_time
from typing import Any

from threadpoolctl import threadpool_limits
from timing import ratios, spread, table

from llmlab import build
from llmlab.checkpoints import load
from llmlab.cli.start import compose
from llmlab.generate import SAMPLERS, Draft, Engine, NetworkDraft, NgramDraft
from llmlab.runs import resolve_checkpoint
from llmlab.streams import stream
from llmlab.text.reading import read_chats

HEADS = ("sampler", "batch", "draft", "tokens/s", "a pass", "right", "ratio")
SAMPLED = {"greedy": "greedy", "temperature 0.8": {"type": "sample", "temperature": 0.8}}


def main() -> None:
    """Measure what the command line asks for."""
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("text", type=Path)
    parser.add_argument("--draft", nargs="*", default=[])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--tokens", type=int, default=200, help="most tokens of a reply")
    parser.add_argument("--guess", type=int, default=5, help="most tokens of a guess")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    rows = []
    with threadpool_limits(1, user_api="blas"):
        own = model(options.run)
        drafts: dict[str, Draft | None] = {"none": None, "ngram": NgramDraft(options.guess)}
        for name in options.draft:
            drafts[name] = NetworkDraft(model(name).network("numpy"), options.guess)
        given = prompts(own, options.text, options.prompts)
        for sampler in SAMPLED:
            for batch in options.batch:
                rows += compare(own, given, sampler, batch, drafts, options)
    print(table(HEADS, rows))


def model(run: str) -> build.Model:
    """Return the model of a run."""
    path = str(resolve_checkpoint(run))
    return build.load_model(compose("phase=generate", f"checkpoint={path}"), load(path))


def prompts(own: build.Model, text: Path, count: int) -> list[list[int]]:
    """Return prompts as ids."""
    if text.suffix in (".json", ".jsonl"):
        chats = [entry for entry, _ in islice(read_chats(text, notices=False), count)]
        asked = [
            own.template.parse(chat)[0] if isinstance(chat, str) else chat[0].content
            for chat in chats
        ]
        return [own.template.encode_prompt(own.tokenizer, prompt) for prompt in asked]
    ids = own.tokenizer.encode(text.read_text(encoding="utf-8")[-200_000:])
    size = own.max_seq_len // 2
    return [ids[at : at + size] for at in range(0, len(ids) - size, len(ids) // count)][:count]


def compare(
    own: build.Model,
    given: list[list[int]],
    sampler: str,
    batch: int,
    drafts: dict[str, Draft | None],
    options: argparse.Namespace,
) -> list[tuple[str, ...]]:
    """Time one sampler at one batch size; return rows of the table."""
    engine, chosen = Engine(own.network("numpy")), SAMPLERS.build(SAMPLED[sampler], "sampler")
    groups = [given[at : at + batch] for at in range(0, len(given), batch)]

    def decode(draft: Draft | None) -> tuple[list[Any], float]:
        began, replies = process_time(), []
        for group in groups:
            replies += engine.generate(
                group,
                sampler=chosen,
                max_new_tokens=options.tokens,
                stop_ids=own.template.stop_ids(own.tokenizer),
                rngs=[stream(0, "sampling", row) for row in range(len(group))],
                refill=True,
                draft=draft,
            )
        return replies, process_time() - began

    plain = decode(None)[0]
    for name, draft in drafts.items():
        if sampler == "greedy" and decode(draft)[0] != plain:
            print(f"draft={name}: found other tokens")
    times: dict[str, list[float]] = {name: [] for name in drafts}
    speeds: dict[str, float] = {}
    for _ in range(options.rounds):
        for name, draft in drafts.items():
            replies, seconds = decode(draft)
            # Drawn replies have other lengths: what counts is the time of a token.
            count = sum(len(reply.ids) for reply in replies)
            times[name].append(seconds / count)
            speeds[name] = max(speeds.get(name, 0.0), count / seconds)
    rows = []
    for name, draft in drafts.items():
        tally = None if draft is None else draft.tally
        passes = f"{tally.tokens / tally.passes:.2f}" if tally else "1"
        right = f"{tally.accepted / tally.drafted:.0%}" if tally and tally.drafted else "-"
        ratio = spread(ratios(times["none"], times[name])) if tally else "1"
        speed = f"{speeds[name]:,.0f}"
        rows.append((sampler, str(batch), name, speed, passes, right, ratio))
        if tally:
            tally.passes = tally.tokens = tally.drafted = tally.accepted = 0
    return rows


if __name__ == "__main__":
    main()
