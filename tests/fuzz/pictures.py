"""Broken folders of pictures, in each of the ways that they are laid out for training."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from .case import Case
from .mutations import BYTES, OBSTACLES, in_place_of, words

EDITS = ("bright", "night")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def save(path: Path, width: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(path.name)).integers(0, 256, (20, width, 3), dtype="u1")
    Image.fromarray(values).save(path)


def pairs(root: Path) -> None:
    for edit in EDITS:
        for scene in range(3):
            for side in ("before", "after"):
                save(root / edit / f"{scene}_{side}.png")
        (root / edit / "caption.txt").write_text(f"make it {edit}\n")


def sides(root: Path) -> None:
    """Pairs in two folders of an edit."""
    for edit in EDITS:
        for scene in range(2):
            for side in ("source", "target"):
                save(root / edit / side / f"{scene}.png")


def triplets(root: Path) -> None:
    for number in range(3):
        save(root / "target" / f"{number}.png")
        save(root / "control" / f"{number}.png", width=60)
        (root / "target" / f"{number}.txt").write_text(f"edit {number}")
    described = [{"analogy_id": str(number), "category": EDITS[number % 2]} for number in range(3)]
    (root / "analogy_metadata.json").write_text(json.dumps(described))


def relation252k(root: Path) -> None:
    for edit in EDITS:
        group = root / edit / "Group1"
        labels = [{"img_name": f"{number}.png", "edit_instruction": f"make it {edit}"} for number in range(3)]
        for label in labels:
            save(group / label["img_name"], width=40)
        (group / "labels.json").write_text(json.dumps(labels))


LAYOUTS = {"pairs": pairs, "sides": sides, "triplets": triplets, "relation252k": relation252k}


def _any(random: Random, root: Path, *suffixes: str) -> Path:
    found = [path for path in sorted(root.rglob("*")) if path.suffix in suffixes and path.is_file()]
    return random.choice(found or [root / "new.png"])


def a_picture_missing(random: Random, root: Path) -> None:
    _any(random, root, ".png").unlink(missing_ok=True)


def a_picture_that_is_broken(random: Random, root: Path) -> None:
    path = _any(random, root, ".png")
    path.write_bytes(random.choice(BYTES)(random, path.read_bytes()))


def a_picture_that_is_no_file(random: Random, root: Path) -> None:
    in_place_of(_any(random, root, ".png"), random.choice(OBSTACLES))


def an_odd_name(random: Random, root: Path) -> None:
    path = _any(random, root, ".png")
    names = [
        "\n_before.png",
        "\x1b[31m_after.png",
        "_before.png",
        ".png",
        "..png",
        "é" * 60 + "_before.png",
        " _after.png",
    ]
    names += ["x_BEFORE.PNG", "a%s{0}.png", "x" * 240 + "_before.png", "CON_before.png", "a_before_before.png"]
    path.rename(
        path.with_name(random.choice(names + ([] if os.name == "nt" else [os.fsdecode(b"\xff\xfe_before.png")])))
    )


def an_edit_of_an_odd_name(random: Random, root: Path) -> None:
    folders = [path for path in sorted(root.iterdir()) if path.is_dir()]
    path = random.choice(folders)
    path.rename(
        path.with_name(
            random.choice(["a\nb", "\u202e", " ", "x" * 250, ".hidden", "%s", "e\u0301", os.fsdecode(b"\xff")])
        )
    )


def a_link_out_of_the_folder(random: Random, root: Path) -> None:
    (root / "link").symlink_to(random.choice(["/", "..", "/proc/self", "/dev"]), target_is_directory=True)
    path = _any(random, root, ".png")
    path.unlink()
    path.symlink_to(random.choice(["/etc/passwd", "/dev/zero", "/dev/stdin"]))


def a_ring_of_links(random: Random, root: Path) -> None:
    for edit in [path for path in sorted(root.iterdir()) if path.is_dir()]:
        (edit / "before").mkdir(exist_ok=True)
        (edit / "before" / "again").symlink_to(root, target_is_directory=True)


def nothing_in_it(random: Random, root: Path) -> None:
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_file() or random.random() < 0.5:
            path.unlink() if path.is_file() else _remove(path)


def _remove(path: Path) -> None:
    if not any(path.iterdir()):
        path.rmdir()


def a_document_that_is_broken(random: Random, root: Path) -> None:
    path = _document(root)
    path.write_bytes(
        random.choice(BYTES)(random, path.read_bytes()) if random.random() < 0.5 else random.choice(TEXTS).encode()
    )


def _document(root: Path) -> Path:
    """The document of the layout; where it has none, one of another layout."""
    found = sorted(root.rglob("*.json"))
    if not found:
        found = [root / EDITS[0] / "Group1" / "labels.json"]
        found[0].parent.mkdir()
        found[0].write_text(json.dumps([{"img_name": "0.png"}]))
    return found[0]


TEXTS = ["", "null", "{}", "[]", "[1]", "[{}]", "[[]]", '[{"img_name": 1}]', "[" * 100_000, '{"a":' * 5000, "1" * 5000]


PATHS = ["../../secret.png", "/etc/passwd", "..", ".", "a/../../x.png", "C:\\x.png", "\\\\host\\x.png", "~root/x.png"]
PATHS += ["0.png\0", "\ud800.png", "x" * 5000 + ".png", "sub/0.png", "", " ", "//0.png", "0.png/", "0.png/../0.png"]


def names_that_lead_elsewhere(random: Random, root: Path) -> None:
    save(root.parent / "secret.png", width=40)
    path = _document(root)
    entries = json.loads(path.read_text())
    for entry in random.sample(entries, random.choice((1, len(entries)))):
        entry[next(iter(entry))] = random.choice(PATHS)
        entry[random.choice(("edit_instruction", "category"))] = random.choice(
            (1, None, [], {}, "\ud800", "x" * 5000, "a\nb")
        )
    path.write_text(json.dumps(entries))


def a_document_that_is_no_file(random: Random, root: Path) -> None:
    in_place_of(_document(root), random.choice(OBSTACLES))


def a_caption_that_is_broken(random: Random, root: Path) -> None:
    path = _any(random, root, ".txt")
    path = path if path.suffix == ".txt" else next(root.iterdir()) / "caption.txt"
    path.write_bytes(
        random.choice(
            [b"\xff\xfe\0", b"\0", b"", "é".encode("latin-1"), b"\xef\xbb\xbfx", b"x" * 3_000_000, b"\n\n", b"a\x1bb"]
        )
    )


def a_caption_that_is_no_file(random: Random, root: Path) -> None:
    path = _any(random, root, ".txt")
    in_place_of(path if path.suffix == ".txt" else next(root.iterdir()) / "caption.txt", random.choice(OBSTACLES))


def the_folder_is_none(random: Random, root: Path) -> None:
    root.rename(root.with_name("moved"))
    in_place_of(root, random.choice([obstacle for obstacle in OBSTACLES if obstacle.__name__ != "a_folder"]))


OPERATORS: list[Callable[[Random, Path], None]] = [
    a_picture_missing,
    a_picture_that_is_broken,
    a_picture_that_is_no_file,
    an_odd_name,
    an_edit_of_an_odd_name,
    nothing_in_it,
    a_document_that_is_broken,
    names_that_lead_elsewhere,
    a_document_that_is_no_file,
    a_caption_that_is_broken,
    a_caption_that_is_no_file,
    the_folder_is_none,
]
if os.name != "nt":
    OPERATORS += [a_link_out_of_the_folder, a_ring_of_links]


def make(seed: int, folder: Path) -> Case:
    """See Case."""
    random = Random(seed)
    ways = [(layout, operator) for operator in OPERATORS for layout in LAYOUTS]
    layout, operator = ways[seed * 5 % len(ways)] if len(ways) % 5 else ways[seed * 3 % len(ways)]
    root = folder / "fuzzed"
    LAYOUTS[layout](root)
    operator(random, root)
    named = ("fuzzed", *EDITS)
    return Case(f"{words(operator)}, {layout}", named, lambda: _load(root), lambda held: _check(root, held))


def _load(root: Path):
    """As a training does: all analogies, and then each picture; those that are refused are left out of it."""
    from lorweb_core import LoRWebError
    from lorweb_core.training.data.analogies import load_picture
    from lorweb_core.training.data.pictures_on_disk import read_analogies

    analogies = read_analogies(root)
    refused: dict = {}
    images = {}
    for picture in dict.fromkeys(picture for analogy in analogies for picture in analogy.pictures):
        try:
            images[picture] = load_picture(picture)
        except LoRWebError as error:
            refused[picture] = error
    for error in refused.values():
        if len(refused) == 1:
            raise error
        assert "fuzzed" in str(error) and len(str(error)) < 2000, f"a refusal like {error!r}"
    return analogies, images


def _check(root: Path, held) -> None:
    """Each analogy is of two pairs of one edit, of files inside the folder, and none is missing."""
    analogies, images = held
    assert analogies
    for analogy in analogies:
        for picture in analogy.pictures:
            inside = os.path.relpath(os.path.normpath(picture.path), root)
            assert not inside.startswith(".."), f"{picture.path} is not in the folder"
            assert os.path.normpath(picture.path) == os.fspath(picture.path) or "\0" not in os.fspath(picture.path)
        analogy.caption.encode()
        assert analogy.edit
    for image in images.values():
        assert image.ndim == 3 and image.shape[-1] == 3 and image.isfinite().all()
    if (root / "target").is_dir() and (root / "control").is_dir():
        strips = {path.stem for path in _pictures(root / "control")}
        assert len(analogies) == sum(path.stem in strips for path in _pictures(root / "target"))
        return
    for edit in {analogy.edit for analogy in analogies}:
        of_edit = [analogy for analogy in analogies if analogy.edit == edit]
        shown = {(analogy.a, analogy.a_prime) for analogy in of_edit} | {
            (analogy.b, analogy.b_prime) for analogy in of_edit
        }
        assert len(of_edit) == min(64, len(shown) * (len(shown) - 1)), f"{len(of_edit)} analogies of {len(shown)} pairs"
        for before, after in shown:
            assert before != after and before.path.parts[: len(root.parts)] == root.parts
            assert (
                os.path.relpath(before.path, root).split(os.sep)[0]
                == os.path.relpath(after.path, root).split(os.sep)[0]
                == edit
            )


def _pictures(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
