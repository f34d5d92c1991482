"""Folders of pictures as analogies: three layouts, every two pairs of an edit, and edits that are really unseen."""

from __future__ import annotations

import json
import logging
from itertools import permutations
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from lorweb_core import LoRWebError
from lorweb_core.training.data.analogies import Pair, analogies_from_pairs
from lorweb_core.training.data.pictures_on_disk import Analogy, Picture, load_picture, read_analogies, split_by_edit


def colours(path: Path, *levels: int, width: int = 20) -> Path:
    """A picture of columns of equal width, each of one grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (width * len(levels), 16))
    for column, level in enumerate(levels):
        image.paste((level,) * 3, (column * width, 0, (column + 1) * width, 16))
    image.save(path)
    return path


def levels(analogy: Analogy) -> list[int]:
    """The grey of a, a', b and b', each of one."""
    found = []
    for picture in analogy.pictures:
        (level,) = (load_picture(picture) * 255).round().int().unique().tolist()
        found.append(level)
    return found


def published(folder: Path) -> Path:
    for number in range(3):
        colours(folder / "control" / f"x.png_{number}.png", 10 * number, 10 * number + 1, 10 * number + 2)
        colours(folder / "target" / f"x.png_{number}.png", 10 * number + 3)
    (folder / "target" / "x.png_0.txt").write_text("make it bright\n")
    (folder / "target" / "x.png_1.txt").write_text("make it dark")
    return folder


def relation252k(folder: Path, **pairs: int) -> Path:
    """Each category's pictures are 10 i | 10 i + 1."""
    for category, count in pairs.items():
        group = folder / category / "Group1"
        group.mkdir(parents=True)
        labels = [{"img_name": f"{i}.png_{i}.png", "edit_instruction": f"{category} {i}"} for i in range(count)]
        (group / "labels.json").write_text(json.dumps(labels))
        for i in range(count):
            colours(group / f"{i}.png_{i}.png", 10 * i, 10 * i + 1)
    return folder


@pytest.mark.parametrize("given", ["both folders", "the folder above", "the target folder"])
def test_published_triplets_are_read_as_they_are(tmp_path, given):
    published(tmp_path)
    target, control = tmp_path / "target", tmp_path / "control"
    folder = {"both folders": (target, control), "the folder above": (tmp_path,), "the target folder": (target,)}[given]
    found = read_analogies(*folder, default_caption="edit", analogies_per_edit=1)
    assert [levels(each) for each in found] == [[0, 1, 2, 3], [10, 11, 12, 13], [20, 21, 22, 23]]
    assert [each.caption for each in found] == ["make it bright", "make it dark", "edit"]
    assert [each.edit for each in found] == ["make it bright", "make it dark", "edit"]


def test_the_edit_of_a_triplet_is_its_category_else_its_caption_else_its_name(tmp_path):
    published(tmp_path)
    described = [{"analogy_id": "x.png_0", "category": "light", "edit_prompt": "p"}, {"analogy_id": "x.png_1"}]
    (tmp_path / "analogy_metadata.json").write_text(json.dumps(described))
    assert [each.edit for each in read_analogies(tmp_path)] == ["light", "make it dark", "x.png_2"]


def test_strips_and_targets_may_be_of_other_formats(tmp_path):
    published(tmp_path)
    (tmp_path / "control" / "x.png_0.png").unlink()
    colours(tmp_path / "control" / "x.png_0.BMP", 7, 8, 9)
    assert levels(read_analogies(tmp_path)[0]) == [7, 8, 9, 3]


def test_a_target_without_a_strip_is_left_out_and_named(tmp_path, caplog):
    published(tmp_path)
    (tmp_path / "control" / "x.png_1.png").unlink()
    assert len(read_analogies(tmp_path)) == 2
    (message,) = caplog.messages
    assert "1 pictures have no strip" in message
    assert "x.png_1.png" in message


@pytest.mark.parametrize("words", [("before", "after"), ("source", "target"), ("input", "output")])
@pytest.mark.parametrize("form", ["{edit}/{name}_{side}.png", "{edit}/{side}/{name}.png"])
def test_pairs_in_folders_of_edits(tmp_path, form, words):
    for i, name in enumerate(("one", "two", "three")):
        for side, word in enumerate(words):
            colours(tmp_path / form.format(edit="blur", name=name, side=word), 10 * i + side)
    (tmp_path / "blur" / "caption.txt").write_text("blur it")
    found = read_analogies(tmp_path)
    pairs = [[10 * i, 10 * i + 1] for i in range(3)]
    assert sorted(levels(each) for each in found) == sorted(p + q for p, q in permutations(pairs, 2))
    assert {(each.edit, each.caption) for each in found} == {("blur", "blur it")}


def test_two_pictures_of_a_pair_may_be_of_other_formats_but_not_alone(tmp_path, caplog):
    for name in ("one_before.png", "one_after.bmp", "two_before.png", "two_AFTER.JPG", "three_before.png"):
        colours(tmp_path / "blur" / name, 5)
    colours(tmp_path / "blur" / "._one_after.png", 5)
    assert len(read_analogies(tmp_path)) == 2
    (message,) = caplog.messages
    assert "1 pictures have no other one" in message
    assert "three_before.png" in message


def test_relation252k_pictures_are_pairs_side_by_side(tmp_path):
    found = read_analogies(relation252k(tmp_path, smile=2, night=3), default_caption="unused")
    assert len(found) == 2 + 6
    smiles = [each for each in found if each.edit == "smile"]
    assert [levels(each) for each in smiles] == [[0, 1, 10, 11], [10, 11, 0, 1]]
    assert [each.caption for each in smiles] == ["smile 0", "smile 1"]  # of the pair that demonstrates, as published


def test_labelled_pictures_that_are_missing_are_left_out_counted_and_named_once(tmp_path, caplog):
    relation252k(tmp_path, smile=4, night=3)
    (tmp_path / "smile" / "Group1" / "0.png_0.png").unlink()
    (tmp_path / "night" / "Group1" / "2.png_2.png").unlink()
    assert len(read_analogies(tmp_path)) == 6 + 2
    (message,) = caplog.messages
    for word in ("2 pictures", "smile/Group1/0.png_0.png", "night/Group1/2.png_2.png"):
        assert word in message


def test_an_edit_with_one_pair_only_is_named(tmp_path, caplog):
    assert {each.edit for each in read_analogies(relation252k(tmp_path, smile=2, night=1))} == {"smile"}
    (message,) = caplog.messages
    assert "night (1)" in message


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (
            lambda folder: relation252k(folder, smile=1, night=1),
            {},
            "No edit has two pairs.*night \\(1\\), smile \\(1\\)",
        ),
        (lambda folder: None, {}, "No pairs of pictures found.*control/X.*labels.json.*NAME_before.*is there: nothing"),
        (lambda folder: colours(folder / "blur" / "a.png", 1), {}, "No pairs of pictures found.*is there: blur/"),
        (lambda folder: colours(folder / "a.png", 1), {"layout": "pairs"}, "NAME_before.*is there: a.png"),
        (lambda folder: published(folder), {"layout": "relation252k"}, "labels.json.*is there: control/, target/"),
        (lambda folder: published(folder), {"layout": "pears"}, "layout is 'pears'; expected one of: auto, triplets"),
        (lambda folder: None, {"control": Path("none")}, "control_path none: there is no such folder"),
        (lambda folder: None, {"control": Path("."), "layout": "pairs"}, "goes with the layout triplets only"),
    ],
)
def test_a_folder_without_analogies_is_refused(tmp_path, make, options, words):
    make(tmp_path)
    with pytest.raises(LoRWebError, match=words):
        read_analogies(tmp_path, **options)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(LoRWebError, match="folder_path .*none: there is no such folder"):
        read_analogies(tmp_path / "none")


@pytest.mark.parametrize(
    "labels", ["[{]", "{}", '["a"]', '[{"img_name": 1}]', '[{"edit_instruction": "a"}]', "[" * 99999]
)
def test_labels_of_another_form_are_refused_by_name(tmp_path, labels):
    (relation252k(tmp_path, smile=2) / "smile" / "Group1" / "labels.json").write_text(labels)
    with pytest.raises(LoRWebError, match=r"smile.Group1.labels\.json"):
        read_analogies(tmp_path)


def test_a_caption_that_is_no_text_is_refused_by_name(tmp_path):
    (published(tmp_path) / "target" / "x.png_0.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LoRWebError, match=r"caption .*x\.png_0\.txt cannot be read"):
        read_analogies(tmp_path)


def test_a_picture_too_narrow_for_its_columns_is_refused(tmp_path):
    path = colours(tmp_path / "strip.png", 1, 2, width=20)
    with pytest.raises(LoRWebError, match=r"strip\.png, part 3 of 3 is 14×16 pixels"):
        load_picture(Picture(path, 2, 3))


@given(width=st.integers(48, 200), parts=st.integers(1, 3))
@hypothesis_settings(max_examples=20)
def test_columns_are_equal_and_make_up_the_picture(tmp_path_factory, width, parts):
    path = tmp_path_factory.mktemp("columns") / "strip.png"
    Image.effect_noise((width, 16), 60).convert("RGB").save(path)
    columns = [load_picture(Picture(path, part, parts)) for part in range(parts)]
    assert torch.equal(torch.cat(columns, 1), load_picture(Picture(path)))
    assert max(column.shape[1] for column in columns) - min(column.shape[1] for column in columns) <= 1


def some_pairs(**counts: int) -> dict[str, list[Pair]]:
    return {
        edit: [Pair(Picture(Path(f"{edit}{i}")), Picture(Path(f"{edit}{i}'")), "") for i in range(count)]
        for edit, count in counts.items()
    }


@given(count=st.integers(2, 9), most=st.integers(1, 80), seed=st.integers(0, 9))
@hypothesis_settings(max_examples=60)
def test_two_pairs_make_an_analogy_in_both_orders_up_to_a_number(count, most, seed):
    pairs = some_pairs(blur=count)
    found = analogies_from_pairs(pairs, most, seed)
    possible = {(*p[:2], *q[:2]) for p, q in permutations(pairs["blur"], 2)}
    assert len(found) == len(set(found)) == min(most, count * (count - 1))
    assert {each.pictures for each in found} <= possible


def test_which_analogies_are_taken_depends_on_the_seed_and_on_no_other_edit():
    few = analogies_from_pairs(some_pairs(blur=9), 8, 1)
    assert analogies_from_pairs(some_pairs(blur=9), 8, 1) == few
    assert [each for each in analogies_from_pairs(some_pairs(aaa=5, blur=9), 8, 1) if each.edit == "blur"] == few
    assert analogies_from_pairs(some_pairs(blur=9), 8, 2) != few


def edits(*names: str) -> list[Analogy]:
    return analogies_from_pairs(some_pairs(**dict.fromkeys(names, 3)), 4, 0)


def names_of(split: list[Analogy]) -> set[str]:
    return {analogy.edit for analogy in split}


def test_edits_are_held_out_by_name_and_pattern():
    analogies = edits("red hat", "red coat", "blur", "[x]")
    train, kept = split_by_edit(analogies, ["red *", "[x]"])
    assert (names_of(train), names_of(kept)) == ({"blur"}, {"red hat", "red coat", "[x]"})
    assert sorted(train + kept) == sorted(analogies)


@given(
    names=st.sets(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=12),
    held=st.integers(0, 3),
    share=st.floats(0, 0.7),
    seed=st.integers(0, 5),
)
@hypothesis_settings(max_examples=80)
def test_no_edit_is_on_both_sides(names, held, share, seed):
    analogies = edits(*sorted(names))
    held_out = sorted(names)[: min(held, len(names) - 1)]
    others = len(names) - len(held_out)
    if round(share * others) == others:
        with pytest.raises(LoRWebError, match="none is left"):
            split_by_edit(analogies, held_out, share, seed)
        return
    train, kept = split_by_edit(analogies, held_out, share, seed)
    assert not names_of(train) & names_of(kept)
    assert names_of(train) | names_of(kept) == names
    assert set(held_out) <= names_of(kept)
    assert len(names_of(kept)) == len(held_out) + round(share * others)
    assert split_by_edit(analogies[::-1], held_out, share, seed) == (train[::-1], kept[::-1])


def test_the_seed_chooses_which_edits_are_kept():
    analogies = edits(*"abcdefgh")
    assert len({frozenset(names_of(split_by_edit(analogies, (), 0.5, seed)[1])) for seed in range(10)}) > 5


@pytest.mark.parametrize(("pattern", "words"), [("blurr", "did you mean 'blur'"), ("q*", "there are: blur, red hat")])
def test_a_held_out_name_of_no_edit_is_refused(pattern, words):
    with pytest.raises(LoRWebError, match=words):
        split_by_edit(edits("red hat", "blur"), [pattern])


def test_holding_all_edits_out_is_refused():
    with pytest.raises(LoRWebError, match="keep all 2 edits from training"):
        split_by_edit(edits("red hat", "blur"), ["*"])


def test_an_analogy_is_called_by_its_edit_and_files():
    assert edits("blur")[0].name.startswith("blur (")
    strip = Picture(Path("data/control/x.png"), 0, 3)
    analogy = Analogy(strip, strip, strip, Picture(Path("data/target/x.png")), "red hat", "")
    assert analogy.name == "red hat (control/x.png, target/x.png)"


@pytest.fixture(autouse=True)
def warnings_only(caplog):
    caplog.set_level(logging.WARNING)
