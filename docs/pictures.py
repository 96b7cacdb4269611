"""Draw the pictures of docs/data.md from the bundled sample: python docs/pictures.py"""

import os
import shutil
import tempfile
from pathlib import Path

from rich.console import Console

from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.data.prepare import prepare
from gpt2chat.core.data.shards import PICTURE
from gpt2chat.core.data.show import pick_samples
from gpt2chat.report import samples as view

DOCS = Path(__file__).parent


def main() -> None:
    """Write show.svg, what `prepare --show 2` prints, and lengths.png, what `--stats` draws."""
    with tempfile.TemporaryDirectory() as folder:
        settings = PrepareConfig(sample=True, stats=True, out=Path(folder) / "data", workers=1)
        result = prepare(settings, lambda _: None)
        shutil.copy(result.out / PICTURE, DOCS / PICTURE)
        samples = [sample for sample in pick_samples(result.out, 40) if sample.tokens < 120][:2]
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        view.out = Console(file=nowhere, record=True, width=124, force_terminal=True)
        view.show_samples(samples, json=False)
        view.out.save_svg(str(DOCS / "show.svg"), title="gpt2chat prepare --sample --show 2")


if __name__ == "__main__":
    main()
