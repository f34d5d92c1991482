"""Examples that show more than is wanted, and how much was made of either."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lorweb_core.choosing import choose_part
from lorweb_core.triplet import Triplet
from small_world.world.drawn_analogies import LEAST_CHANGE, Analogies, triplets
from small_world.world.drawn_grids import Encode, encode_grids, floats
from small_world.world.plain.edits import SINGLE, Edit, draw_pairs, edit_scenes, scenes_for, split
from small_world.world.plain.scenes import FILTERS, Scenes, render
from small_world.worlds import PLAIN

LEAST_APART = 0.2
"""Least squared sine between the wanted and the unwanted change for their shares to be measured."""

SOFTNESS = 0.015
"""Deviation of the blur of a mask's edge, as a share of the side: a pixel."""

SHOWS = 0.02
"""Least difference of a pixel that a change is seen in."""


class Choice(NamedTuple):
    """Choose what examples show, edits of several parts, and how many of these, the first ones, are wanted."""

    edits: list[Edit]
    wanted: int = 1


class Asked(NamedTuple):
    """Hold n analogies of a choice, no pair in the grid, and what examples show them; triplets of n each."""

    analogies: Analogies
    """Their tasks are b, and b with the wanted parts alone."""
    all_made: Tensor
    """b with all parts, (n, 3, SIDE, SIDE)."""
    whole: list[Triplet]
    """Of pairs that show all parts."""
    alone: list[Triplet]
    """Of pairs that show the wanted parts alone."""
    apart: list[list[Triplet]]
    """For each part of the edits, of pairs that show it alone."""
    masked: list[Triplet]
    """Of the pairs of `whole`, chosen by a mask on where the wanted parts change pixels."""
    unwanted: int
    """Place of the first unwanted part."""


class Made(NamedTuple):
    """Hold how pictures came out, each the mean over the analogies."""

    error: float
    """Squared error to b with the wanted parts alone."""
    wanted: float
    """Share of the wanted change that is made, over analogies that show both changes apart."""
    unwanted: float
    """Share of the unwanted change that is made, likewise."""
    analogies: int
    """How many those are."""


def ask(choice: Choice, seed: int, encode: Encode) -> Asked:
    """Draw an analogy of each edit, and the examples."""
    random, again = (torch.Generator().manual_seed(start + seed) for start in (100, 300))
    edits, parts = choice.edits, range(len(choice.edits[0]))
    wanted = [edit[: choice.wanted] for edit in edits]
    b, b_wanted, b_all = _drawn(edits, wanted, random, again)
    a, a_wanted, a_all = _drawn(edits, wanted, random, again)
    tasks = torch.stack([b, b_wanted], 1)
    grids = encode_grids(encode, tasks[:, :1].expand_as(tasks), tasks)
    alone = draw_pairs(wanted, 1, random)
    apart = [_showing([(edit[part],) for edit in edits], random, seed) for part in parts]
    whole = triplets(torch.stack([a, a_all], 1), tasks)
    masks = _masks(floats(a), floats(a_wanted))
    return Asked(
        Analogies(PLAIN, list(wanted), torch.stack([a, a_all], 1), tasks, grids),
        floats(b_all),
        whole,
        triplets(alone, tasks),
        [triplets(pairs, tasks) for pairs in apart],
        [_masked(triplet, mask) for triplet, mask in zip(whole, masks, strict=True)],
        choice.wanted,
    )


def _shows(scene: Scenes, edit: Edit) -> bool:
    """Tell whether each part of an edit changes a scene: a circle without texture or face is tilted for nothing."""
    before = render(scene)
    return all((render(edit_scenes(scene, (name,))) - before).abs().max() > SHOWS for name in edit)


def _showing(edits: list[Edit], random: torch.Generator, seed: int) -> Tensor:
    """Draw a pair of each edit, and another one in the place of one that shows no change: a circle that is tilted."""
    pairs, again = draw_pairs(edits, 1, random), torch.Generator().manual_seed(200 + seed)
    for index in range(len(edits)):
        while torch.equal(*pairs[index]):
            pairs[index] = draw_pairs([edits[index]], 1, again)[0]
    return pairs


def _drawn(
    edits: list[Edit], wanted: list[Edit], random: torch.Generator, again: torch.Generator
) -> tuple[Tensor, ...]:
    """Draw a scene of each edit: as it is, with the wanted parts, with all; (n, 3, SIDE, SIDE) each, uint8.

    again: what scenes in which a part shows nothing are drawn anew from.
    """
    scenes = [scenes_for(edit, 1, random) for edit in edits]
    for index, edit in enumerate(edits):
        while not _shows(scenes[index], edit):
            scenes[index] = scenes_for(edit, 1, again)
    drawn = (
        scenes,
        [edit_scenes(scene, parts) for scene, parts in zip(scenes, wanted, strict=True)],
        [edit_scenes(scene, edit) for scene, edit in zip(scenes, edits, strict=True)],
    )
    return tuple(torch.cat([render(scene) for scene in each]).mul(255).round().byte() for each in drawn)


def _masks(before: Tensor, after: Tensor) -> Tensor:
    """Mask where pictures change, a pixel wider: (n, SIDE, SIDE)."""
    changed = (after - before).abs().amax(1, keepdim=True).gt(SHOWS).float()
    return F.max_pool2d(changed, 3, 1, 1)[:, 0]


def _masked(triplet: Triplet, mask: Tensor) -> Triplet:
    ((a, a_prime),) = triplet.pairs
    if not mask.min() < 0.5 <= mask.max():
        return triplet
    return Triplet([(a, choose_part(a, a_prime, mask, SOFTNESS))], triplet.b)


def judge(made: Tensor, asked: Asked) -> Made:
    """Hold pictures, (n, 3, SIDE, SIDE), against b with the wanted parts; the shares by least squares, both at once.

    b' − b is taken as p times the wanted change plus q times the unwanted one: p and q are 1 where all is made.
    Where nothing is unwanted, q is 0.
    """
    b, b_wanted = floats(asked.analogies.tasks).unbind(1)
    changes = torch.stack([b_wanted - b, asked.all_made - b_wanted], 1).flatten(2)
    changes = changes[:, : 1 + bool(changes[:, 1].any())]
    gram = changes @ changes.mT / changes.shape[-1]
    squares = gram.diagonal(dim1=1, dim2=2)
    apart = torch.linalg.det(gram) / squares.prod(1).clamp_min(1e-12)
    shown = (squares.amin(1) > LEAST_CHANGE) & (apart > LEAST_APART)
    along = (changes @ (made - b).flatten(1)[..., None])[..., 0] / changes.shape[-1]
    shares = torch.linalg.solve(gram[shown], along[shown]).mean(0)
    error = (made - b_wanted).square().mean().item()
    return Made(error, shares[0].item(), shares[1:].sum().item(), int(shown.sum()))


def known_pairs() -> list[Edit]:
    """List 26 pairs of edits that the basis was trained on: what a gain is calibrated on."""
    return [edit for edit in split()[0] if len(edit) == 2][::6][:26]


def triples(count: int = 24) -> list[Edit]:
    """List edits of three attributes, every single one of which the basis knows; none of them hides another."""
    names = [edit[0] for edit in split()[0] if len(edit) == 1 and edit[0] not in FILTERS]
    distinct = [edit for edit in combinations(names, 3) if len({SINGLE[name][0] for name in edit}) == 3]
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(3)).tolist()
    turned = torch.randint(3, (count,), generator=torch.Generator().manual_seed(4)).tolist()
    chosen = [distinct[i] for i in order[:count]]
    return [edit[turn:] + edit[:turn] for edit, turn in zip(chosen, turned, strict=True)]


def parted_pairs() -> list[Edit]:
    """List the new pairs whose edits change pixels of their own, in both orders: what a mask can part."""
    found = [pair for pair in split()[1] if _common(pair) < SHOWS]
    return [edit for pair in found for edit in (pair, pair[::-1])]


def _common(pair: Edit) -> float:
    """Measure which share of what one edit changes the other changes too, over 32 scenes."""
    scenes = scenes_for(pair, 32, torch.Generator().manual_seed(0))
    before = render(scenes)
    one, other = (
        (render(edit_scenes(scenes, (name,))) - before).abs().amax(1).gt(SHOWS).flatten(1).float() for name in pair
    )
    return ((one * other).sum() / torch.minimum(one.sum(), other.sum())).item()
