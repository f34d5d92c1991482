"""Draw what the space of mixtures is good for: one edit out of two, two from two, and strengths."""

from __future__ import annotations

from torch import Tensor

from lorweb_core.files.image_file import write_png
from lorweb_core.mixture import Mixture
from lorweb_core.space.blend import ORIGINS
from lorweb_core.space.edit import Edit, edit
from lorweb_core.triplet import Triplet
from small_world import choices, choose_study, study
from small_world.choices import Asked, Choice
from small_world.choose_study import AS_IT_IS, CHOSEN, MASKED, WAYS, Setting
from small_world.models import stored
from small_world.picture_table import picture_table
from small_world.world.benchmark import open_benchmark
from small_world.world.drawn_grids import floats
from small_world.worlds import PLAIN

FOLDER = study.RESULTS.parent

ONE_OF_TWO = [("red", "winter"), ("sun", "square"), ("stripes", "spring"), ("star", "sun")]
BY_MASK = [("sun", "orange"), ("autumn", "stripes"), ("face", "summer")]
TWO_FROM_TWO = [("red", "summer"), ("orange", "sun"), ("green", "autumn"), ("winter", "square")]
STRENGTHS_OF = ("red", "summer")
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


def draw() -> None:
    """Write `chosen.png`, `chosen_by_mask.png`, `two_from_two.png` and `strengths.png` into the documents."""
    benchmark, autoencoder = open_benchmark(PLAIN), stored.load_autoencoder(PLAIN)
    setting = Setting(choose_study.BASES["ca'-ca"](benchmark), benchmark, autoencoder)

    def asked(edits: list, wanted: int) -> Asked:
        return choices.ask(Choice(edits, wanted), setting.seed, autoencoder.encode)

    for name, table in {
        "chosen": _one_of_two(setting, asked(ONE_OF_TWO, 1)),
        "chosen_by_mask": _by_mask(setting, asked(BY_MASK, 1)),
        "two_from_two": _two_from_two(setting, asked(TWO_FROM_TWO, 2)),
        "strengths": _strengths(setting, asked([STRENGTHS_OF], 2)),
    }.items():
        write_png(table, FOLDER / f"{name}.png")


def _one_of_two(setting: Setting, asked: Asked) -> Tensor:
    as_it_is, chosen = (setting.made(WAYS[way](setting, asked), asked) for way in (AS_IT_IS, CHOSEN))
    rows = {
        f"{' and '.join(edit)}, without {edit[1]}": [*_pair(whole), *_pair(unwanted), b, plain, made, truth]
        for edit, whole, unwanted, (b, truth), plain, made in zip(
            ONE_OF_TWO, asked.whole, asked.apart[1], floats(asked.analogies.tasks), as_it_is, chosen, strict=True
        )
    }
    return picture_table(("a", "a'", "unwanted a", "unwanted a'", "b", "as it is", "Choose Edit", "wanted"), rows)


def _by_mask(setting: Setting, asked: Asked) -> Tensor:
    as_it_is, chosen = (setting.made(WAYS[way](setting, asked), asked) for way in (AS_IT_IS, MASKED))
    rows = {
        f"{' and '.join(edit)}: {edit[0]}": [*_pair(whole), _pair(masked)[1], b, plain, made, truth]
        for edit, whole, masked, (b, truth), plain, made in zip(
            BY_MASK, asked.whole, asked.masked, floats(asked.analogies.tasks), as_it_is, chosen, strict=True
        )
    }
    return picture_table(("a", "a'", "a' by the mask", "b", "as it is", "Choose Edit", "wanted"), rows)


def _two_from_two(setting: Setting, asked: Asked) -> Tensor:
    both, added = (setting.made(WAYS[way](setting, asked), asked) for way in (AS_IT_IS, "X + Y from no edit"))
    rows = {
        " and ".join(edit): [*_pair(one), *_pair(other), b, plain, made, truth]
        for edit, one, other, (b, truth), plain, made in zip(
            TWO_FROM_TWO, *asked.apart, floats(asked.analogies.tasks), both, added, strict=True
        )
    }
    return picture_table(("X: a", "X: a'", "Y: a", "Y: a'", "b", "of a pair of both", "X + Y", "wanted"), rows)


def _strengths(setting: Setting, asked: Asked) -> Tensor:
    whole = setting.routed(asked.whole)

    def made(mixture: Mixture) -> Tensor:
        return setting.made(mixture, asked)[0]

    counted = {
        f"counted from {origin}": [made(edit(whole, Edit(scale=scale, origin=origin))) for scale in STRENGTHS]
        for origin in reversed(ORIGINS)
    }
    given = [*_pair(asked.whole[0]), floats(asked.analogies.tasks)[0, 0]]
    rows = {
        name: [*(given if row == 0 else [None] * 3), *b_primes] for row, (name, b_primes) in enumerate(counted.items())
    }
    return picture_table(("a", "a'", "b", *(f"{scale:g}" for scale in STRENGTHS)), rows)


def _pair(example: Triplet) -> tuple[Tensor, Tensor]:
    ((a, a_prime),) = example.pairs
    return a.movedim(-1, 0), a_prime.movedim(-1, 0)
