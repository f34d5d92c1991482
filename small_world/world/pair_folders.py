"""The small world's data as files: pairs of pictures before and after, grouped by edit."""

from __future__ import annotations

from pathlib import Path

import torch

from lorweb_core.files.image_file import write_png
from small_world.printed_progress import PrintedProgress
from small_world.worlds import World, file_name


def write_pairs(world: World, folder: Path, k: int = 8, seed: int = 20) -> None:
    """Write k pairs of every edit of a world as `<edit>/<number>_before.png` and `_after.png`.

    Names of edits that a basis is not to see begin with `new`: the ones to hold out.
    """
    generator = torch.Generator().manual_seed(seed)
    named = {file_name(edit): edit for edit in world.splits["trained"].edits}
    held_out = [split.edits for name, split in world.splits.items() if name not in ("trained", "seen")]
    named |= {f"new-{file_name(edit)}": edit for edits in held_out for edit in edits}
    for index in (progress := PrintedProgress("pairs", len(named))):
        name, edit = list(named.items())[index]
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, pair in enumerate(world.draw_pairs([edit], k, generator).movedim(2, -1)):
            for when, picture in zip(("before", "after"), pair, strict=True):
                write_png(picture, folder / name / f"{number}_{when}.png")
        progress.show(pairs=(index + 1) * k)
