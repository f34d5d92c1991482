"""The small world's models where ComfyUI and diffusers look for models, and pictures to try them on."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lorweb_core.files.image_file import write_png
from lorweb_core.files.safetensors_writer import write_all
from lorweb_core.files.tensor_files import read_tensors
from small_world.models import stored
from small_world.models.taesd import full_taesd
from small_world.world.plain.scenes import SIDE
from small_world.worlds import SHIPPED, Edit, World, file_name

MEGAPIXELS = (2 * SIDE) ** 2 / 1024**2
"""Size of a grid of scenes."""

NAMES = {
    "diffusion_models": "small-world-flux.safetensors",
    "vae": "small-world-taesd.safetensors",
    "text_encoders": "small-world-silent-clip-l.safetensors",
    "lorweb": "small-world-basis.safetensors",
}
"""ComfyUI's folder for a kind of file → the file's name in it."""


PICTURES = ("a", "a_prime", "b", "truth")
"""Pictures that are saved of an analogy; `truth` is b' as the world draws it."""


def comfy_models(folder: Path, text_encoder: dict[str, Tensor]) -> None:
    """Fill a `models` folder. text_encoder: a CLIP-L, whose size ComfyUI fixes; it is made to say nothing.

    The base was taught words of its own, and an analogy needs none: its prompt is zeros.
    """
    silent = {name: torch.zeros_like(t) if "final_layer_norm" in name else t for name, t in text_encoder.items()}
    files = {
        "diffusion_models": stored.read(SHIPPED, SHIPPED.base, "base"),
        "vae": taesd(SHIPPED),
        "text_encoders": silent,
        "lorweb": read_tensors(SHIPPED.basis),
    }
    for kind, weights in files.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        write_all(folder / kind / NAMES[kind], weights, {"format": "pt"})
    shutil.copy(SHIPPED.basis.with_suffix(".yaml"), (folder / "lorweb" / NAMES["lorweb"]).with_suffix(".yaml"))
    shutil.copytree(SHIPPED.encoder, folder / "clip_vision" / SHIPPED.encoder_name)


def taesd(world: World) -> dict[str, Tensor]:
    """Load every tensor of a world's autoencoder, under ComfyUI's names."""
    return full_taesd(stored.read(world, world.autoencoder, "autoencoder"))


def save_triplets(folder: Path, chosen: Sequence[Edit], seed: int = 1) -> list[str]:
    """Save two scenes for each edit: `<edit>-a.png`, `-a_prime.png`, `-b.png`, and `-truth.png`, which b' should be.

    Returns the edits' names, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    for edit in chosen:
        save_triplet(folder, edit, generator)
    return [file_name(edit) for edit in chosen]


def save_triplet(folder: Path, edit: Edit, generator: torch.Generator) -> None:
    """Save two scenes for an edit, as `save_triplets` names the files."""
    pictures = SHIPPED.draw_pairs([edit], 2, generator).flatten(0, 1).movedim(1, -1)
    for what, picture in zip(PICTURES, pictures, strict=True):
        write_png(picture, folder / f"{file_name(edit)}-{what}.png")
