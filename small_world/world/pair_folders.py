"""The small world's data as files: pairs of pictures before and after, grouped by edit."""

from __future__ import annotations

from pathlib import Path

import torch

from lorweb_core.files.image_file import write_png
from small_world.printed_progress import PrintedProgress
from small_world.world.drawn_grids import draw_pairs
from small_world.world.edits import split


def write_pairs(folder: Path, k: int = 8, seed: int = 20) -> None:
    """Write k pairs of every edit as `<edit>/<number>_before.png` and `_after.png`.

    Names of edits that a basis is not to see begin with `new`: the ones to hold out.
    """
    generator = torch.Generator().manual_seed(seed)
    seen, new_pairs, new_edits = split()
    named = {"-".join(edit): edit for edit in seen} | {f"new-{'-'.join(edit)}": edit for edit in new_pairs + new_edits}
    for index in (progress := PrintedProgress("pairs", len(named))):
        name, edit = list(named.items())[index]
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, pair in enumerate(draw_pairs([edit], k, generator).movedim(2, -1)):
            for when, picture in zip(("before", "after"), pair, strict=True):
                write_png(picture, folder / name / f"{number}_{when}.png")
        progress.show(pairs=(index + 1) * k)
