"""A folder of pictures to train a basis on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor


def save_pairs(folder: Path, edits: Mapping[str, Callable[[Tensor], Tensor]], scenes: Mapping[object, Tensor]) -> Path:
    """Save each edit of each scene (H, W, 3) in 0–1 as `<edit>/<scene>_before.png` and `_after.png`."""
    from PIL import Image

    for name, edit in edits.items():
        (folder / name).mkdir(parents=True)
        for scene, before in scenes.items():
            for which, image in {"before": before, "after": edit(before)}.items():
                pixels = (image * 255).round().byte().numpy()
                Image.fromarray(pixels).save(folder / name / f"{scene}_{which}.png")
    return folder
