"""Families of edits, each with parameters: what a basis is trained on, and what is kept from it in four ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from small_world.world.families import filters
from small_world.world.families.scenes import ADDED, SEASONS, TEXTURES, Scenes, draw_scenes, render
from small_world.world.families.shapes import ROUND, SHAPES
from small_world.world.painting import select

Edit = tuple[str, ...]
"""One or two names of SINGLE."""

Values = tuple[float, ...]


@dataclass(frozen=True)
class Family:
    """Describe edits that differ in their parameters alone; each of the lists holds the parameters of one edit."""

    known: tuple[Values, ...]
    """Parameters of the edits that a basis is trained on."""
    inside: tuple[Values, ...] = ()
    """Parameters between the known ones, which no basis sees, but the base."""
    outside: tuple[Values, ...] = ()
    """Parameters beyond the known ones, which no basis sees, but the base."""
    attributes: tuple[str, ...] = ()
    """What it sets in a scene: attributes of `Scenes`, by `change`; none where it is a filter."""
    change: Callable[[Scenes, Tensor], dict[str, Tensor]] | None = None
    filter: Callable[..., Tensor] | None = None
    discrete: bool = False
    """Whether there is nothing between the values."""

    @property
    def single(self) -> tuple[Values, ...]:
        return self.known + self.inside + self.outside


def _each(*values: float) -> tuple[Values, ...]:
    return tuple((float(value),) for value in values)


def _every(ones: Sequence[float], others: Sequence[float]) -> tuple[Values, ...]:
    return tuple((float(one), float(other)) for one in ones for other in others)


def _index(n: Tensor, index: int) -> Tensor:
    return torch.full_like(n, index, dtype=torch.long)


def _sets(attribute: str, whole: bool = False) -> Callable[[Scenes, Tensor], dict[str, Tensor]]:
    return lambda scenes, values: {attribute: values[:, 0].long() if whole else values[:, 0]}


def _texture(index: int) -> Family:
    return Family(
        _each(0.35, 0.55, 0.9),
        _each(0.7),
        _each(1.3),
        ("texture",),
        lambda scenes, values: {"texture": _index(values[:, 0], index), "grain": values[:, 0]},
    )


def _addition(index: int) -> Family:
    return Family(
        _each(-0.75, 0, 0.75),
        _each(-0.4, 0.4),
        attributes=("added",),
        change=lambda scenes, values: {"added": _index(values[:, 0], index), "place": values[:, 0]},
    )


FAMILIES: dict[str, Family] = {
    "shape": Family(
        _each(*range(len(SHAPES))), attributes=("shape",), change=_sets("shape", whole=True), discrete=True
    ),
    "colour": Family(_each(*range(0, 360, 45)), _each(22, 202), attributes=("colour",), change=_sets("colour")),
    **{kind: _texture(index) for index, kind in enumerate(TEXTURES) if index},
    "outline": Family(_each(0.14, 0.2, 0.28), _each(0.17, 0.24), _each(0.38), ("outline",), _sets("outline")),
    "turn": Family(_each(-60, -30, 30, 60), _each(-45, 45), _each(-85, 85), ("turn",), _sets("turn")),
    "face": Family(
        _each(-1, -0.5, 0.5, 1),
        _each(0),
        _each(-1.5, 1.5),
        ("face",),
        lambda scenes, values: {"face": _index(values[:, 0], 1), "mouth": values[:, 0]},
    ),
    **{kind: _addition(index) for index, kind in enumerate(ADDED) if index},
    "season": Family(
        _each(*range(len(SEASONS))), attributes=("season",), change=_sets("season", whole=True), discrete=True
    ),
    "hour": Family(_each(5, 7, 17, 19, 20, 22), _each(6, 18, 21), _each(0), ("hour",), _sets("hour")),
    "hue": Family(_each(60, 120, 180, 240, 300), _each(90, 210), filter=filters.turn_hue),
    "tint": Family(
        _every(range(0, 360, 60), (0.3, 0.5)),
        _every((0, 120, 240), (0.4,)),
        _every((60, 180, 300), (0.7,)),
        filter=filters.tint,
    ),
    "brightness": Family(
        _each(0.4, 0.55, 0.75, 1.25, 1.5, 1.8), _each(0.65, 1.37), _each(0.25, 2.3), filter=filters.brighten
    ),
    "contrast": Family(_each(0.3, 0.5, 0.7, 1.4, 1.8, 2.4), _each(0.4, 1.6), _each(0.15, 3.2), filter=filters.contrast),
    "saturation": Family(_each(0, 0.35, 0.65, 1.5, 2.2), _each(0.5, 1.8), _each(3.2), filter=filters.saturate),
    "gamma": Family(_each(0.35, 0.5, 0.7, 1.5, 2, 2.8), _each(0.6, 1.75), _each(0.22, 4), filter=filters.gamma),
    "blur": Family(_each(1, 1.8, 2.6, 3.5), _each(2.2), _each(5.5), filter=filters.blur),
    "pixels": Family(_each(3, 5, 8, 12), _each(6.5), _each(18), filter=filters.pixelate),
    "posterize": Family(_each(2, 3, 5), _each(4), filter=filters.posterize, discrete=True),
    "solarize": Family(_each(0, 0.25, 0.5, 0.7), _each(0.37), filter=filters.solarize),
    "rotate": Family(_each(-60, -40, -20, 20, 40, 60), _each(-30, 30), _each(-85, 85), filter=filters.rotate),
    "zoom": Family(_each(0.6, 0.75, 1.3, 1.6, 1.9), _each(0.67, 1.45), _each(0.5, 2.4), filter=filters.zoom),
    "shift": Family(
        (*_every((-0.6, -0.3, 0.3, 0.6), (0,)), *_every((0,), (-0.6, -0.3, 0.3, 0.6))),
        ((-0.45, 0.0), (0.0, 0.45)),
        ((0.85, 0.0), (0.0, -0.85)),
        filter=filters.shift,
    ),
    "mirror": Family(_each(0, 1, 2), filter=filters.mirror, discrete=True),
    "border": Family(
        _every((0.08, 0.16, 0.24), (0, 1)), _every((0.12, 0.2), (0, 1)), _every((0.34,), (0, 1)), filter=filters.border
    ),
    # Kept from every basis, and the last two from the base as well.
    "size": Family(
        _each(0.6, 0.75, 1.25, 1.45),
        attributes=("size",),
        change=lambda scenes, values: {"size": scenes.size * values[:, 0]},
    ),
    "vignette": Family(_each(0.4, 0.6, 0.8, 1.0), filter=filters.vignette),
    "swap": Family(_each(1, 2, 3, 4, 5), filter=filters.swap, discrete=True),
    "wave": Family(_each(0.08, 0.14, 0.2), filter=filters.wave),
    "duotone": Family(_each(0, 90, 180, 270), filter=filters.duotone),
}

WHOLE = ("size", "vignette", "swap")
"""Families that no basis sees, but the base."""

UNTAUGHT = ("wave", "duotone")
"""Families that not even the base was taught."""

TRAINED = tuple(name for name in FAMILIES if name not in WHOLE + UNTAUGHT)
TAUGHT = TRAINED + WHOLE

PARAMETERS = 2
"""Most parameters that a family has."""

Part = tuple[str, Tensor]
"""A family's name, and the parameters of n edits of it, (n, 1 or 2)."""


def name_of(family: str, values: Values) -> str:
    """Name an edit by its family and its values: `tint 60 0.3`; those with names of their own by them."""
    names = {"shape": list(SHAPES), "season": list(SEASONS)}.get(family)
    shown = (names[int(values[0])],) if names else tuple(f"{value:g}" for value in values)
    return " ".join((family, *shown))


SINGLE: dict[str, tuple[str, Values]] = {
    name_of(family, values): (family, values) for family in FAMILIES for values in FAMILIES[family].single
}
"""Name of an edit → its family and its values."""


def ranges(family: str) -> tuple[tuple[float, float], ...]:
    """Find the least and the greatest value of each parameter."""
    return tuple((min(along), max(along)) for along in zip(*FAMILIES[family].single, strict=True))


def go_together(one: str, other: str) -> bool:
    """Tell whether two families both show, in this order: they set different things, and neither hides the other."""
    first, second = FAMILIES[one], FAMILIES[other]
    return not set(first.attributes) & set(second.attributes) and {one, other} not in _HIDE


_HIDE = (
    {"mirror", "shift"},
    {"blur", "pixels"},
    {"posterize", "solarize"},
    {"saturation", "hue"},
    {"saturation", "colour"},
    {"hue", "colour"},
    {"tint", "colour"},
)


def _family_pairs() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Split pairs of families into those that are seen together and one in seven that never are, always the same."""
    pairs = [pair for pair in combinations(TRAINED, 2) if go_together(*pair)]
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0)).tolist()
    held = len(pairs) // 7
    return [pairs[i] for i in sorted(order[held:])], [pairs[i] for i in sorted(order[:held])]


SEEN_TOGETHER, NEVER_TOGETHER = _family_pairs()


def _named(which: str, families: Sequence[str]) -> list[Edit]:
    return [(name_of(family, values),) for family in families for values in getattr(FAMILIES[family], which)]


def _pairs_of(families: Sequence[tuple[str, str]], seed: int) -> list[Edit]:
    """Choose an edit of each family, for every pair of families."""
    random = torch.Generator().manual_seed(seed)

    def one_of(family: str) -> str:
        known = FAMILIES[family].known
        return name_of(family, known[int(torch.randint(len(known), (1,), generator=random))])

    return [(one_of(one), one_of(other)) for one, other in families]


def splits() -> dict[str, list[Edit]]:
    """List the edits that a basis is trained on, and those that are held out from it in each of the ways."""
    seen_pairs = _pairs_of(SEEN_TOGETHER, 1)
    return {
        "trained": _named("known", TRAINED) + seen_pairs,
        "new_pairs": _pairs_of(NEVER_TOGETHER, 2),
        "inside": _named("inside", TRAINED),
        "outside": _named("outside", TRAINED),
        "whole": _named("known", WHOLE),
        "untaught": _named("known", UNTAUGHT),
    }


def parts_of(edit: Edit, n: int) -> list[Part]:
    """Make an edit's parts, for n scenes."""
    named = [SINGLE[name] for name in edit]
    return [(family, torch.tensor(values).expand(n, -1)) for family, values in named]


def random_parts(families: Sequence[str], n: int, generator: torch.Generator) -> list[Part]:
    """Draw parameters anywhere in the families' ranges, for n edits."""

    def drawn(family: str) -> Tensor:
        single = torch.tensor(FAMILIES[family].single)
        chosen = single[torch.randint(len(single), (n,), generator=generator)]
        if FAMILIES[family].discrete:
            return chosen
        low, high = single.amin(0), single.amax(0)
        between = low + (high - low) * torch.rand(chosen.shape, generator=generator)
        # A shift goes one way at a time.
        return torch.where(chosen == 0, 0.0, between) if family == "shift" else between

    return [(family, drawn(family)) for family in families]


def pictures_of(scenes: Scenes, parts: Sequence[Part]) -> Tensor:
    """Draw scenes with edits made: what is in the scene first, then filters in their order. (n, 3, SIDE, SIDE)."""
    for family, values in parts:
        if (change := FAMILIES[family].change) is not None:
            scenes = replace(scenes, **change(scenes, values))
    picture = render(scenes)
    for family, values in parts:
        if (filter_ := FAMILIES[family].filter) is not None:
            picture = filter_(picture, *values.unbind(1)).clamp(0, 1)
    return picture


def scenes_for(parts: Sequence[Part], n: int, generator: torch.Generator) -> Scenes:
    """Draw random scenes in which each part of the edit changes something."""
    scenes = draw_scenes(n, generator)
    for family, values in parts:
        wanted = values[:, 0]

        def other(count: int) -> Tensor:
            return torch.randint(1, count, (n,), generator=generator)

        if family in ("shape", "season"):
            count, has = len(SHAPES if family == "shape" else SEASONS), getattr(scenes, family)
            changed = {family: torch.where(has == wanted, (wanted.long() + other(count)) % count, has)}
        elif family == "colour":
            near = ((scenes.colour - wanted + 180) % 360 - 180).abs() < 50
            changed = {"colour": torch.where(near, (wanted + 50 + 26.0 * other(11)) % 360, scenes.colour)}
        elif family in TEXTURES:
            index = TEXTURES.index(family)
            has = scenes.texture == index
            changed = {"texture": torch.where(has, (index + other(len(TEXTURES))) % len(TEXTURES), scenes.texture)}
        elif family == "turn":
            round_ = torch.isin(scenes.shape, torch.tensor([list(SHAPES).index(shape) for shape in ROUND]))
            changed = {"shape": torch.where(round_, other(len(SHAPES) - 1), scenes.shape)}
        elif family == "face":
            changed = {"face": torch.where((scenes.mouth - wanted).abs() < 0.8, 0, scenes.face)}
        else:
            continue
        scenes = replace(scenes, **changed)
    return scenes


def draw_pairs_of(parts: Sequence[Part], n: int, generator: torch.Generator) -> Tensor:
    """Draw n scenes before and after edits: (n, 2, 3, SIDE, SIDE), uint8 as in a file."""
    scenes = scenes_for(parts, n, generator)
    return torch.stack([render(scenes), pictures_of(scenes, parts)], 1).mul(255).round().byte()


def draw_pairs(edits: Sequence[Edit], each: int, generator: torch.Generator) -> Tensor:
    """Draw `each` pairs of every edit, one edit after the other: (n, 2, 3, SIDE, SIDE), uint8 as in a file."""
    return torch.cat([draw_pairs_of(parts_of(edit, each), each, generator) for edit in edits])


def taught_families() -> list[tuple[str, ...]]:
    """List the families, and pairs of them, that the base is taught: all but what is held out from it too."""
    with_whole = [pair for pair in combinations(TAUGHT, 2) if set(pair) & set(WHOLE) and go_together(*pair)]
    return [(family,) for family in TAUGHT] + SEEN_TOGETHER + with_whole


_AS_THEY_ARE = 0.25
"""Share of random pictures that have no edit."""


def draw_pictures(n: int, generator: torch.Generator) -> Tensor:
    """Draw n random pictures, float32 in 0–1: scenes as they are, and with edits of TAUGHT, two alike."""
    scenes, made, taught = draw_scenes(n, generator), [], taught_families()
    for places in torch.arange(n).split(2):
        families = taught[int(torch.randint(len(taught), (1,), generator=generator))]
        if torch.rand(1, generator=generator) < _AS_THEY_ARE:
            families = ()
        made.append(pictures_of(select(scenes, places), random_parts(families, len(places), generator)))
    return torch.cat(made)


def draw_scene_versions(n: int, versions: int, generator: torch.Generator, alone: float = 0.5) -> Tensor:
    """Draw n scenes, each in so many versions, one version of all after the other: (n * versions, 3, SIDE, SIDE).

    The first is the scenes as they are, the others have random edits of TAUGHT, a share `alone` of them single ones.
    """
    scenes, taught = draw_scenes(n, generator), taught_families()
    single, double = ([families for families in taught if len(families) == size] for size in (1, 2))
    made = [render(scenes)]
    for _ in range(versions - 1):
        kind = single if torch.rand(1, generator=generator) < alone else double
        families = kind[int(torch.randint(len(kind), (1,), generator=generator))]
        made.append(pictures_of(scenes, random_parts(families, n, generator)))
    return torch.cat(made)
