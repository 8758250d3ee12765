"""How large the page of a look inside is, how long it takes to make, and until it is drawn.

    python benchmarks/inspect_page.py [--tokens 16 64 512] [--presets rustgpt gpt2 ...]

Small networks of each preset with weights at random, which no training has made easy to compress.
The time to the first chart is that of Chromium, headless, from the start of the document until all
maps are drawn; without a Chromium it is left out.
"""

import argparse
import json
import re
import shutil
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
SAID = """<script>(async () => {
while (!document.body.dataset.drawn) await new Promise((done) => setTimeout(done, 5));
document.title = `drawn after ${Math.round(performance.now())}`;
})();</script></body>"""


def drawn(page: Path, folder: Path) -> str:
    """Return the milliseconds until the page is drawn in Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        return "none"
    before, _, after = page.read_text(encoding="utf-8").rpartition("</body>")
    timed = folder / "timed.html"
    timed.write_text(before + SAID + after, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--timeout=30000", "--dump-dom"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [chromium, *flags, f"--user-data-dir={folder / 'profile'}", timed.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"<title>drawn after (\d+)", done.stdout)
    return found[1] if found else "more than 30,000"


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
    head = ("preset", "heads", "tokens shown", "KB", "bits", "s to make", "ms to first chart")
    print(table(head, rows))


if __name__ == "__main__":
    main()
