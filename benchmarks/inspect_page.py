"""How large the page of a look inside is, how long it takes to make, and until it is drawn.

    python benchmarks/inspect_page.py [--tokens 16 64 512] [--presets rustgpt gpt2 ...]

Small networks of each preset with weights at random, which no training has made easy to compress.
The time to the charts is what Chromium, headless, takes longer for the page with all maps drawn
than for an empty one, the median of three; without a Chromium it is left out.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from timing import table

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

from inspect_lab import look_at, random_rows, small_model, write

PRESETS = {
    "rustgpt": ("model=rustgpt",),
    "gpt2": ("model=gpt2", "model.num_heads=8"),
    "llama": ("model=llama", "model.num_heads=8"),
    "mixtral": ("model=mixtral", "model.num_heads=8"),
    "mixed": ("experiment=mixed",),
}
SIZES = ("model.embedding_dim=64", "model.hidden_dim=128", "model.num_blocks=2")
WORDS = tuple(f"word{n}" for n in range(500))
ROUNDS = 3
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--virtual-time-budget=60000"),
)


def drawn(page: Path, folder: Path) -> str:
    """Return the milliseconds that Chromium takes longer for the page than for an empty one."""
    chromium = shutil.which("chromium")
    if chromium is None:
        return "none"
    empty = folder / "empty.html"
    empty.write_text("<!doctype html><title>empty</title>", encoding="utf-8")
    more = []
    for _ in range(ROUNDS):
        took = []
        for each in (empty, page):
            profile = f"--user-data-dir={folder / 'profile'}"
            command = [chromium, *FLAGS, profile, "--dump-dom", each.as_uri()]
            start = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            took.append(time.perf_counter() - start)
        assert 'data-drawn="true"' in done.stdout, "the page wasn't drawn"
        more.append(took[1] - took[0])
    return f"{1000 * statistics.median(more):.0f}"


def measure(preset: str, tokens: int) -> tuple[str, ...]:
    """Return a row of the table."""
    model = small_model(*PRESETS[preset], *SIZES, tokens=WORDS, time=tokens)
    ids = np.random.default_rng(2).integers(len(WORDS), size=tokens)
    rows = random_rows(len(WORDS), 8, min(tokens, 64))
    with tempfile.TemporaryDirectory() as place:
        start = time.perf_counter()
        look, content = look_at(model, ids, rows)
        page, shown = write(Path(place), look, content)
        took = time.perf_counter() - start
        text = page.read_text(encoding="utf-8")
        data = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
        bits = json.loads(data[1])["maps"]["bits"] if data else 0
        size = page.stat().st_size / 1000
        heads = str(len(look.maps))
        kept = f"{len(shown['tokens'])} of {tokens}"
        first = drawn(page, Path(place))
    return preset, heads, kept, f"{size:,.0f}", str(bits), f"{took:.1f}", first


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 64, 512])
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    options = parser.parse_args()
    rows = [measure(preset, tokens) for preset in options.presets for tokens in options.tokens]
    head = ("preset", "heads", "tokens shown", "KB", "bits", "s to make", "ms to the charts")
    print(table(head, rows))


if __name__ == "__main__":
    main()
