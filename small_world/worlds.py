"""The configurations of the small world: what each draws, tells and holds out, and where its models are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from small_world.models import contrastive_encoder, files, image_encoder
from small_world.models.autoencoder import Blocks
from small_world.models.files import Files
from small_world.models.flux import Size
from small_world.models.one_cycle import Kept
from small_world.world.families import edits as family_edits
from small_world.world.families import lessons as family_lessons
from small_world.world.families import words as family_words
from small_world.world.plain import edits as plain_edits
from small_world.world.plain import lessons as plain_lessons

if TYPE_CHECKING:
    from transformers import CLIPVisionModelWithProjection

Edit = tuple[str, ...]
"""One name of an edit, or several."""


class Split(NamedTuple):
    """Choose analogies: of what edits, how many of each, drawn from which seed."""

    edits: list[Edit]
    each: int
    seed: int


@dataclass(frozen=True, eq=False)
class World(Files):
    """Describe one configuration of the small world."""

    size: Size
    """Size of the base."""
    draw_pictures: Callable[[int, torch.Generator], Tensor]
    """Draws n random pictures, (n, 3, SIDE, SIDE), float32 in 0–1."""
    draw_pairs: Callable[[Sequence[Edit], int, torch.Generator], Tensor]
    """Draws so many pairs of every edit, one edit after the other: (n, 2, 3, SIDE, SIDE), uint8."""
    words_for: Callable[[Sequence[Edit]], Tensor]
    """Makes the words of edits, (n, k, 768)."""
    draw_lessons: Callable[[torch.Generator], tuple[Tensor, Tensor]]
    """Draws what the base is taught: pairs as `draw_pairs` does, and their words, half precision."""
    train_encoder: Callable[[Kept, int], CLIPVisionModelWithProjection]
    """Trains the image encoder, from a seed."""
    splits: dict[str, Split]
    """Analogies by name: what a basis is trained on is `trained`, the others are for measuring."""
    autoencoder_blocks: Blocks
    autoencoder_steps: int
    base_steps: int
    base_batch: int

    @property
    def encoder_id(self) -> str:
        """The image encoder's name in `lorweb_core.encoder.ENCODERS`."""
        return f"lorweb/{self.encoder_name}"

    @property
    def measured(self) -> dict[str, Split]:
        """The splits that a basis is measured on."""
        return {name: split for name, split in self.splits.items() if name != "trained"}


def file_name(edit: Edit) -> str:
    """Name an edit in names of files."""
    return "-".join(edit).replace(" ", "_")


def _plain_splits() -> dict[str, Split]:
    seen, new_pairs, new_edits = plain_edits.split()
    return {
        "trained": Split(seen, 24, 10),
        "seen": Split(seen[:91], 1, 11),
        "new_pairs": Split(new_pairs, 2, 12),
        "new_edits": Split(new_edits, 16, 13),
    }


def _family_splits() -> dict[str, Split]:
    edits = family_edits.splits()
    return {
        "trained": Split(edits["trained"], 16, 20),
        "seen": Split(edits["trained"][::10], 1, 21),
        "new_pairs": Split(edits["new_pairs"], 1, 22),
        "inside": Split(edits["inside"], 1, 23),
        "outside": Split(edits["outside"], 1, 24),
        "whole": Split(edits["whole"], 2, 25),
        "untaught": Split(edits["untaught"], 4, 26),
    }


PLAIN = World(
    **vars(files.PLAIN),
    size=Size(heads=1, double=2, single=4),
    draw_pictures=plain_lessons.draw_pictures,
    draw_pairs=plain_edits.draw_pairs,
    words_for=plain_lessons.words_for,
    draw_lessons=plain_lessons.draw_lessons,
    train_encoder=image_encoder.train,
    splits=_plain_splits(),
    autoencoder_blocks=Blocks(encoder=(9, 12, 13), decoder=(3, 4, 5, 9, 10, 15)),
    autoencoder_steps=5000,
    base_steps=12500,
    base_batch=32,
)
"""The smaller one: one object, and edits that set its attributes."""

FAMILIES = World(
    **vars(files.FAMILIES),
    size=Size(heads=2, double=1, single=2),
    draw_pictures=family_edits.draw_pictures,
    draw_pairs=family_edits.draw_pairs,
    words_for=family_words.words_for,
    draw_lessons=family_lessons.draw_lessons,
    train_encoder=lambda kept, seed: contrastive_encoder.train(family_edits.draw_scene_versions, kept, seed=seed),
    splits=_family_splits(),
    autoencoder_blocks=Blocks(encoder=(5, 9, 12, 13), decoder=(3, 4, 5, 9, 10, 14, 15)),
    autoencoder_steps=12000,
    base_steps=20000,
    base_batch=48,
)
"""The richer one: two objects, and families of edits with parameters."""

WORLDS = {world.name: world for world in (PLAIN, FAMILIES)}
SHIPPED = WORLDS[files.SHIPPED.name]
"""The world whose models the nodes, the demo and the tests take."""
