"""A page to look at in a browser: how a training went, what it makes, and with what settings."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..files.atomic import replacing
from ..files.image_file import write_png
from ..pictures.heat_map import number
from ..pictures.loss_curve import mean_width, recent_loss, seconds_per_step
from ..pictures.training_picture import training_picture
from ..space.usage import Usage
from .settings.config import TrainingConfig
from .settings.document import training_document
from .trainer import Step

PAGE = "summary.html"
PICTURES = {"light": "training.png", "dark": "training-dark.png"}

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 84rem; margin: 2rem auto; padding: 0 1rem;
       background: #fff; color: #1c1e22; }
table { border-collapse: collapse; }
td, th { text-align: left; vertical-align: top; padding: .15rem 1.5rem .15rem 0; font-weight: normal; }
th, figcaption { color: #70747c; }
td { overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; }
figure { margin: 1rem 0; }
@media (prefers-color-scheme: dark) {
  body { background: #181a1e; color: #e6e8ec; }
  th, figcaption { color: #8c929c; }
}
"""


def write_summary(
    folder: Path, config: TrainingConfig, losses: Sequence[Step], usage: Usage | None, strips: Sequence[Path]
) -> Path:
    """Write the page and its pictures, one for light screens and one for dark ones; returns the page.

    strips: pictures of samples, the oldest first; the page shows the newest first and links to them, so they are best
    in `folder`. Raises LoRWebError, and leaves the file that was there, if one cannot be written.
    """
    for theme, name in PICTURES.items():
        write_png(training_picture(losses, usage, theme), folder / name)
    with replacing(folder / PAGE) as file:
        file.write("\n".join(_page(folder, config, losses, usage, strips)).encode())
    return folder / PAGE


def _page(
    folder: Path, config: TrainingConfig, losses: Sequence[Step], usage: Usage | None, strips: Sequence[Path]
) -> Iterator[str]:
    title = escape(config.name)
    yield f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>"
    yield from _table(_facts(config, losses, usage))
    yield (
        f'<figure><picture><source srcset="{PICTURES["dark"]}" media="(prefers-color-scheme: dark)">'
        f'<img src="{PICTURES["light"]}" alt="Loss, learning rate, and how the basis is used"></picture></figure>'
    )
    if strips:
        yield "<h2>Samples, the newest first</h2>"
    for strip in reversed(strips):
        link = quote(Path(os.path.relpath(strip, folder)).as_posix())
        yield (
            f'<figure><a href="{link}"><img src="{link}" alt="" loading="lazy"></a>'
            f"<figcaption>{escape(strip.stem)}</figcaption></figure>"
        )
    yield "<h2>Settings</h2>"
    (process,) = training_document(config)["config"]["process"]
    yield from _table(_flat(process))
    yield "</body>\n</html>\n"


def _facts(config: TrainingConfig, losses: Sequence[Step], usage: Usage | None) -> Iterator[tuple[str, str]]:
    done = losses[-1].number if losses else 0
    yield "Steps done", f"{done:,} of {config.train.steps:,}"
    if losses:
        yield "Seconds per step", number(seconds_per_step(losses))
        over = min(mean_width(len(losses)), len(losses))
        yield "Loss", f"{number(recent_loss(losses))}, the mean of the last {over:,} logged"
    if usage:
        loras = len(usage.shares)
        yield "Entropy of the mixtures", f"{usage.entropy.mean():.2f} (0: one LoRA each; 1: all {loras} alike)"
        dead = f": {', '.join(map(str, usage.dead))}" if usage.dead else ""
        yield "Dead LoRAs", f"{len(usage.dead)} of {loras}{dead}"
        yield "Seen on", f"{usage.analogies:,} analog{'y' if usage.analogies == 1 else 'ies'}"


def _flat(values: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """List settings by their dotted names, as `--set` takes them."""
    if isinstance(values, list) and values and isinstance(values[0], dict):
        values = dict(enumerate(values))
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(values, list):
        yield name, ", ".join(map(str, values)) or "[]"
    else:
        # As YAML spells them.
        yield name, json.dumps(values) if values is None or isinstance(values, bool) else str(values)


def _table(rows: Iterator[tuple[str, str]]) -> Iterator[str]:
    yield "<table>"
    yield from (f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    yield "</table>"
