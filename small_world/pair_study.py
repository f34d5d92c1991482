"""Measure what the choice of a pair does to b': the same edits on the same pictures, shown by good and by bad pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from lorweb_core.files.image_file import write_png
from small_world import study
from small_world.models import stored
from small_world.origin_study import judge
from small_world.picture_table import picture_table
from small_world.world.benchmark import Benchmark, open_benchmark
from small_world.world.drawn_analogies import Analogies, queries, solve
from small_world.world.drawn_grids import encode_grids, floats
from small_world.world.plain.edits import SINGLE, Edit, edit_scenes, scenes_for
from small_world.world.plain.scenes import SEASONS, SIDE, Scenes, render
from small_world.worlds import PLAIN

SEEDS = (0, 1, 2)
"""Seeds of the scenes and of the noise."""

GOOD = "one change, same framing"

COPIED = "none: copying b"


def measure() -> None:
    """Print the error of b', and how much of the wanted change is made, for each way to choose the pair."""
    benchmark = open_benchmark(PLAIN)
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in (*PAIRS, COPIED)}
    for seed in SEEDS:
        b, b_prime = floats(tasks_of(PLAIN.splits["seen"].edits, seed)).unbind(1)
        for way, pictures in [*solve_all(benchmark, PLAIN.splits["seen"].edits, seed), (COPIED, b)]:
            made = judge(pictures, b, b_prime)
            found[way].append((made.error, made.change))
            print(f"seed {seed}, {way}: {found[way][-1]}", flush=True)
    print("| pair | error | in times | share of the change |\n| --- | --- | --- | --- |")
    good = mean(error for error, _ in found[GOOD])
    for way, each in found.items():
        error, change = (mean(values) for values in zip(*each, strict=True))
        print(f"| {way} | {error:.4f} | {error / good:.2f} | {change:.2f} |")


def draw_page(path: Path, edit: Edit = ("winter", "square"), seed: int = 4) -> None:
    """Draw a row for each kind of pair: a, a' and b as they are, and b' as it comes out."""
    (b,), _ = floats(tasks_of([edit], seed)).unbind(1)
    examples, solved = draw([edit], seed), solve_all(open_benchmark(PLAIN), [edit], seed)
    rows = {way: [*floats(examples[way][0]), b, made] for way, (made,) in solved}
    write_png(picture_table(("a", "a'", "b", "b' as made"), rows), path)


def solve_all(benchmark: Benchmark, edits: list[Edit], seed: int) -> Iterator[tuple[str, Tensor]]:
    """Solve an analogy of each edit with each kind of pair; yields the kind's name, and b', (n, 3, SIDE, SIDE)."""
    variant = study.SHIPPED[PLAIN]
    autoencoder = stored.load_autoencoder(PLAIN)
    tasks = tasks_of(edits, seed)
    basis = study.untrained(benchmark, variant)
    basis.load(stored.load_basis(PLAIN).layers)
    handles = basis.attach(benchmark.base.model, benchmark.base.linears)
    try:
        for way, examples in draw(edits, seed).items():
            analogies = Analogies(PLAIN, edits, examples, tasks, encode_grids(autoencoder.encode, examples, tasks))
            encoded = queries(analogies, variant.mode, benchmark.encoder)
            solved = solve(analogies, encoded, basis, benchmark.base, benchmark.encoder, seed=seed)
            yield way, solved.made
    finally:
        for handle in handles:
            handle.remove()


def tasks_of(edits: list[Edit], seed: int) -> Tensor:
    """Draw (b, b') of each edit, (n, 2, 3, SIDE, SIDE), uint8."""
    return torch.cat([_pictures(b, edit_scenes(b, edit)) for edit, _, b in _scenes(edits, seed)])


def draw(edits: list[Edit], seed: int) -> dict[str, Tensor]:
    """Draw (a, a') of each edit in each of PAIRS, (n, 2, 3, SIDE, SIDE), uint8."""
    scenes = [*_scenes(edits, seed)]
    return {way: torch.cat([pair(edit, a, b) for edit, a, b in scenes]) for way, pair in PAIRS.items()}


def _scenes(edits: list[Edit], seed: int) -> Iterator[tuple[Edit, Scenes, Scenes]]:
    """Draw the scenes of a and of b for each edit."""
    random = torch.Generator().manual_seed(1000 + seed)
    for edit in edits:
        both = scenes_for(edit, 2, random)
        yield edit, *(Scenes(**{name: values[i : i + 1] for name, values in vars(both).items()}) for i in (0, 1))


def _pictures(before: Scenes, after: Scenes) -> Tensor:
    return torch.stack([render(before), render(after)], 1).mul(255).round().byte()


def _good(edit: Edit, a: Scenes, b: Scenes) -> Tensor:
    return _pictures(a, edit_scenes(a, edit))


def _alike(edit: Edit, a: Scenes, b: Scenes) -> Tensor:
    """Show the edit on what is in b, elsewhere in the picture and of another size."""
    return _good(edit, replace(b, x=a.x, y=a.y, size=a.size, specks=a.specks), b)


def _moved(edit: Edit, a: Scenes, b: Scenes) -> Tensor:
    """Move a' to the side and up by an eighth of the picture; its border is continued."""
    pair = _good(edit, a, b)
    return torch.stack([pair[:, 0], _shifted(pair[:, 1], SIDE // 8)], 1)


def _shifted(pictures: Tensor, by: int) -> Tensor:
    padded = torch.nn.functional.pad(pictures.float(), (by, 0, 0, by), mode="replicate")
    return padded[..., by:, : pictures.shape[-1]].byte()


def _enlarged(edit: Edit, a: Scenes, b: Scenes) -> Tensor:
    """Take the middle of a', three quarters of its side, as a picture cropped otherwise."""
    pair, border = _good(edit, a, b), SIDE // 8
    middle = pair[:, 1, :, border:-border, border:-border].float()
    whole = torch.nn.functional.interpolate(middle, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return torch.stack([pair[:, 0], whole.round().byte()], 1)


def _two_changes(edit: Edit, a: Scenes, b: Scenes) -> Tensor:
    """Change the season too, or the object's size where the edit sets the season."""
    after = edit_scenes(a, edit)
    if any(SINGLE[name][0] == "season" for name in edit):
        return _pictures(a, replace(after, size=0.6 * after.size))
    return _pictures(a, replace(after, season=(after.season + 1) % len(SEASONS)))


def _other_scene(edit: Edit, a: Scenes, b: Scenes) -> Tensor:
    """Show a' of another scene than a, as if the edit had been found rather than made."""
    other = scenes_for(edit, 1, torch.Generator().manual_seed(round(1e6 * float(a.x))))
    return _pictures(a, edit_scenes(other, edit))


def _no_change(edit: Edit, a: Scenes, b: Scenes) -> Tensor:
    return _pictures(a, a)


def _backwards(edit: Edit, a: Scenes, b: Scenes) -> Tensor:
    return _good(edit, a, b).flip(1)


Pair = Callable[[Edit, Scenes, Scenes], Tensor]
"""Function from an edit, the scene of a and that of b, one each, to (a, a'), (1, 2, 3, SIDE, SIDE), uint8."""

PAIRS: dict[str, Pair] = {
    GOOD: _good,
    "the same, and b's scene in a": _alike,
    "a' moved by an eighth": _moved,
    "a' cropped to three quarters": _enlarged,
    "a second change": _two_changes,
    "a' of another scene": _other_scene,
    "a' = a": _no_change,
    "a and a' swapped": _backwards,
}
