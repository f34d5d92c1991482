"""Example pairs (a, a') → the analogies that a mixture is fitted to, and those that it is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..basis import Progress
from ..errors import LoRWebError
from ..grid import Size, grid_sizes, resize
from ..training.data.batch import Batch, Text
from ..training.data.encoding import Encoders, analogy_grids, last_cell
from ..training.flow_matching import draw_timesteps
from ..training.objective import grid_tokens
from ..training.seeds import generator
from ..triplet import rgb_image
from .augmentation import AS_IT_IS, View, draw_view
from .settings import FitSettings

LEAST_CHANGE = 0.02
"""Largest difference of a and a', in 0–1, below which nothing but a file's compression tells them apart."""

_VIEWS, _STEPS = 2, 3


class Pair(NamedTuple):
    """Hold a picture before and after an edit, (H, W, 3) each, float in 0–1, of one size."""

    a: Tensor
    a_prime: Tensor

    def seen(self, view: View) -> Pair:
        return Pair(view.of(self.a), view.of(self.a_prime))


class Task(NamedTuple):
    """Say which pair is to be made, and which shows the edit: none where there is no other."""

    asked: int
    shown: int | None


class Examples(NamedTuple):
    """Hold analogies, each a batch of one, on the CPU."""

    fitted: list[Batch]
    judged: list[Batch]
    """Analogies that nothing is fitted to, where there are enough pairs; else the pairs as they are."""


def read_pairs(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Pair]:
    """Check pairs of pictures, (H, W, C) each, and bring a' to a's size.

    Raises LoRWebError if there is none, if one is no picture, or if a pair shows no change.
    """
    if not pairs:
        raise LoRWebError("There is no pair to fit to: give one picture before the edit and one after it, or more.")
    read = []
    for number, (a, a_prime) in enumerate(pairs, 1):
        a, a_prime = rgb_image(a, "a").float().cpu(), rgb_image(a_prime, "a_prime").float().cpu()
        a_prime = resize(a_prime[None], Size(*a.shape[:2]))[0]
        if (a - a_prime).abs().max() < LEAST_CHANGE:
            which = "The pair shows" if len(pairs) == 1 else f"Pair {number} of {len(pairs)} shows"
            raise LoRWebError(f"{which} no change: a and a' are the same. Give the picture after the edit as a'.")
        read.append(Pair(a, a_prime))
    return read


def choose_tasks(pairs: int) -> tuple[list[Task], list[Task]]:
    """Choose what is fitted to, and what is judged by: with three pairs or more the last one is kept apart for that.

    Each pair is shown every other; one alone is shown none.
    """
    kept = pairs - 1 if pairs > 2 else pairs
    others = [Task(i, j) for i in range(kept) for j in range(kept) if i != j] or [Task(0, None)]
    return others, [Task(kept, j) for j in range(kept)] if kept < pairs else others


def encode_examples(
    pairs: Sequence[Pair],
    encoders: Encoders,
    settings: FitSettings,
    progress: Progress | None = None,
) -> Examples:
    """Encode every analogy and its views. The encoders are not needed afterwards."""
    fitted, judged = choose_tasks(len(pairs))
    height, width = pairs[0].a.shape[:2]
    whole, _ = grid_sizes(Size(height, width), settings.megapixels, whole_cells=True)
    cell = Size(whole.height // 2, whole.width // 2)
    text = encoders.encode_text([settings.prompt])
    views = choose_views(settings)
    wanted = list(
        dict.fromkeys([*((task, view) for task in fitted for view in views), *((t, AS_IT_IS) for t in judged)])
    )
    made = {}
    for done, (task, view) in enumerate(wanted):
        if progress:
            progress(done, len(wanted))
        made[task, view] = _encode(pairs, task, view, cell, encoders, text)
    return Examples(
        [made[task, view] for task in fitted for view in views],
        [made[task, AS_IT_IS] for task in judged],
    )


def choose_views(settings: FitSettings) -> list[View]:
    """Choose the views of every pair: as it is, and as many more as asked for, if they may differ."""
    kinds = (settings.crops, settings.shifts, settings.flips)
    if not any(kinds):
        return [AS_IT_IS]
    drawn = [draw_view(generator(settings.seed, _VIEWS, i), *kinds) for i in range(1, settings.views)]
    return list(dict.fromkeys([AS_IT_IS, *drawn]))


def _encode(pairs: Sequence[Pair], task: Task, view: View, cell: Size, encoders: Encoders, text: Text) -> Batch:
    """Encode [a a'; b b] and b' of one analogy, b being the a and b' the a' of the pair that is asked for.

    Where no pair is shown, b stands in the place of a and of a': what is asked for is not to be seen.
    """
    asked = pairs[task.asked].seen(view)
    shown = asked if task.shown is None else pairs[task.shown].seen(view)
    grids = torch.stack(analogy_grids(*shown, *asked, cell, show_pair=task.shown is not None))
    target, reference = encoders.encode_image(grids).split(1)
    if not (target.isfinite().all() and reference.isfinite().all()):
        raise LoRWebError("The autoencoder made values that are not finite of the pair. Let it compute in fp32.")
    return Batch(last_cell(target), reference, None, text, (f"pair {task.asked + 1}",))


class Draw(NamedTuple):
    """Hold what one step is fitted to."""

    batches: list[Batch]
    """An analogy for each noise."""
    times: Tensor
    """(noises,)"""
    noises: Tensor
    """(noises, C, h, w)"""


def draw(examples: Sequence[Batch], settings: FitSettings, step: int) -> Draw:
    """Draw what a step is fitted to. It depends on nothing but the seed and the step."""
    random = generator(settings.seed, _STEPS, step)
    which = torch.randint(len(examples), (settings.noises,), generator=random)
    batches = [examples[int(i)] for i in which]
    times = draw_timesteps("sigmoid", len(batches), grid_tokens(batches[0]), random)
    return Draw(batches, times, torch.randn(joined(batches).target.shape, generator=random))


def joined(batches: Sequence[Batch]) -> Batch:
    """Join batches into one."""
    text = Text(*(torch.cat([getattr(batch.text, part) for batch in batches]) for part in Text._fields))
    return Batch(
        torch.cat([batch.target for batch in batches]),
        torch.cat([batch.reference for batch in batches]),
        None,
        text,
        tuple(name for batch in batches for name in batch.names),
    )
