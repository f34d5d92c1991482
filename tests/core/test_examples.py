"""Analogies as batches: grids as at inference, encoded once and kept on disk, drawn by the step's number alone."""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lorweb_core import LoRWebError, VisionEncoder
from lorweb_core.grid import Size, reference_grid
from lorweb_core.query import encode_query
from lorweb_core.training.data.analogies import Analogy, Picture, load_picture
from lorweb_core.training.data.batch import Batch, Text
from lorweb_core.training.data.encoding import analogy_grids
from lorweb_core.training.data.examples import Examples

CELL = 16


class CountingEncoders:
    """Latents are means of 8 × 8 pixels; a caption's tokens tell its length. What was encoded is noted."""

    def __init__(self, factor: float = 1.0):
        self.factor = factor
        self.grids = 0
        self.captions: list[str] = []

    def encode_image(self, images: Tensor) -> Tensor:
        self.grids += len(images)
        return F.avg_pool2d(images.movedim(-1, 1), 8) * self.factor

    def encode_text(self, captions: list[str]) -> Text:
        self.captions += captions
        lengths = torch.tensor([float(len(caption)) for caption in captions])
        return Text(lengths.view(-1, 1, 1).expand(-1, 2, 3), lengths[:, None])


def colour_encoder() -> VisionEncoder:
    """The embedding is the mean colour."""
    return VisionEncoder(lambda squares: squares.mean((2, 3)), 8)


def picture(path: Path, seed: int) -> Picture:
    pixels = torch.randint(256, (18 + seed % 5, 24, 3), generator=torch.Generator().manual_seed(seed))
    Image.fromarray(pixels.byte().numpy()).save(path)
    return Picture(path)


@pytest.fixture
def analogies(tmp_path) -> list[Analogy]:
    """Of `dark` one, of `light` three, which share pictures."""
    (tmp_path / "data").mkdir()
    pictures = [picture(tmp_path / "data" / f"{i}.png", i) for i in range(8)]
    light = [Analogy(*pictures[:2], *pictures[i : i + 2], "light", "lighter") for i in (2, 4, 6)]
    return [Analogy(*pictures[2:6], "dark", "make it dark"), *light]


@pytest.fixture
def make(tmp_path, analogies):
    def make(encoders: CountingEncoders | None = None, analogies: list = analogies, **changed) -> Examples:
        options = {"identity": "small", "cell": CELL, "cache": tmp_path / "cache", "batch_size": 3, **changed}
        mode = options.pop("mode", "cat-aa'b")
        return Examples(analogies, encoders or CountingEncoders(), colour_encoder() if mode else None, mode, **options)

    return make


def same(first: Batch, second: Batch) -> bool:
    tensors = zip((*first[:3], *first.text), (*second[:3], *second.text))
    return first.names == second.names and all(torch.equal(one, other) for one, other in tensors)


@pytest.mark.parametrize("show_pair", [True, False])
def test_grids_differ_in_the_result_only_and_are_those_of_inference(analogies, show_pair):
    a, a_prime, b, b_prime = images = [load_picture(each) for each in analogies[1].pictures]
    target, reference = analogy_grids(*images, Size(CELL, CELL), show_pair)
    size = Size(2 * CELL, 2 * CELL)
    assert torch.equal(reference, reference_grid([(a, a_prime) if show_pair else (b, b)], b, size, size))
    result = target[CELL:, CELL:]
    assert torch.equal(result, reference_grid([(b_prime, b)], b, size, size)[:CELL, :CELL])
    changed = (target != reference).any(-1)
    assert changed[CELL:, CELL:].any()
    assert not changed[:CELL].any()
    assert not changed[:, :CELL].any()


def test_b_prime_alone_is_cut_out_of_what_the_grid_is_encoded_as(make, analogies):
    alone, grid = (make(sampled=sampled).batch(analogies[1:2]) for sampled in ("result", "grid"))
    side = grid.target.shape[-1] // 2
    assert torch.equal(alone.target, grid.target[..., side:, side:])
    assert torch.equal(alone.reference, grid.reference)
    assert torch.equal(make(sampled="grid").batch(analogies[1:2]).target, grid.target)  # another file on disk


def test_b_prime_alone_takes_cells_of_whole_tokens(make):
    with pytest.raises(LoRWebError, match="resolution is 24; expected a multiple of 16 pixels.*train.sampled"):
        make(cell=24, sampled="result")


def test_a_batch_is_what_the_encoders_make_of_the_pictures(make, analogies):
    encoders = CountingEncoders()
    chosen = [analogies[0], analogies[3], analogies[2]]
    batch = make(encoders).batch(chosen)
    for i, analogy in enumerate(chosen):
        images = [load_picture(each) for each in analogy.pictures]
        expected = CountingEncoders().encode_image(torch.stack(analogy_grids(*images, Size(CELL, CELL))))
        torch.testing.assert_close(batch.target[i], expected[0].half().float(), atol=0, rtol=0)
        torch.testing.assert_close(batch.reference[i], expected[1].half().float(), atol=0, rtol=0)
        torch.testing.assert_close(batch.query[i], encode_query(colour_encoder(), *images[:3])[0], atol=0, rtol=0)
    assert batch.text.tokens[:, 0, 0].tolist() == batch.text.pooled[:, 0].tolist() == [12, 7, 7]
    assert batch.names == tuple(analogy.name for analogy in chosen)
    assert {tensor.dtype for tensor in (*batch[:3], *batch.text)} == {torch.float32}


def test_without_a_mode_there_are_no_queries(make):
    examples = make(mode=None)
    examples.prepare()
    assert examples.draw(0).query is None


def test_everything_is_encoded_once_and_then_read_from_disk(make):
    first = make(caption_dropout=0.5)
    batches = [first.draw(step) for step in range(10)]
    examples = make(encoders := CountingEncoders(), caption_dropout=0.5)
    progress: list[tuple[int, int]] = []
    examples.prepare(lambda done, total: progress.append((done, total)))
    assert all(same(examples.draw(step), batch) for step, batch in enumerate(batches))
    assert not encoders.captions
    assert encoders.grids == 0
    assert not progress


def test_prepare_leaves_nothing_to_encode(make):
    examples = make(encoders := CountingEncoders(), caption_dropout=0.5)
    progress: list[tuple[int, int]] = []
    examples.prepare(lambda done, total: progress.append((done, total)))
    assert progress == [(done, 7) for done in range(8)]
    assert encoders.grids == 2 * 4
    assert sorted(encoders.captions) == ["", "lighter", "make it dark"]
    for step in range(30):
        examples.draw(step)
    assert (encoders.grids, len(encoders.captions)) == (8, 3)


@pytest.mark.parametrize(
    "changed", [{"cell": 24}, {"identity": "other"}, {"show_pair": False}, {"mode": "ca'-ca"}, {"mode": None}]
)
def test_what_was_encoded_otherwise_is_not_used(make, changed):
    make().prepare()
    make(encoders := CountingEncoders(), **changed).prepare()
    assert encoders.grids == 8


def test_a_picture_that_was_replaced_is_encoded_again(make, analogies):
    make().prepare()
    picture(analogies[3].b_prime.path, 99)
    make(encoders := CountingEncoders()).prepare()
    assert encoders.grids == 2
    path = analogies[1].b.path  # of `dark` too
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    make(encoders := CountingEncoders()).prepare()
    assert encoders.grids == 4


def test_other_columns_of_the_same_files_are_other_analogies(make, tmp_path):
    Image.effect_noise((96, 32), 60).convert("RGB").save(tmp_path / "strip.png")
    a, a_prime, b = (Picture(tmp_path / "strip.png", part, 3) for part in range(3))
    batch = make().batch([Analogy(a, a_prime, b, a, "x", ""), Analogy(a_prime, a, b, a, "x", "")])
    assert not torch.equal(batch.reference[0], batch.reference[1])


def test_a_damaged_file_of_the_cache_is_made_again(make, tmp_path):
    batch = make().draw(0)
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:-10])
    assert same(make(encoders := CountingEncoders()).draw(0), batch)
    assert encoders.grids > 0
    assert same(make(CountingEncoders(0)).draw(0), batch)


def test_a_draw_depends_on_seed_and_step_alone(make):
    first, second = make(caption_dropout=0.3), make(caption_dropout=0.3)
    forward = [first.draw(step) for step in range(12)]
    assert all(same(second.draw(step), forward[step]) for step in reversed(range(12)))
    assert len({batch.names for batch in forward}) > 6
    assert [make(seed=7).draw(step).names for step in range(12)] != [batch.names for batch in forward]


def test_each_edit_is_drawn_as_often_and_captions_are_dropped_at_their_rate(make):
    examples = make(batch_size=50, caption_dropout=0.25)
    batches = [examples.draw(step) for step in range(16)]
    names = Counter(name for batch in batches for name in batch.names)
    dark = sum(count for name, count in names.items() if name.startswith("dark"))
    dropped = sum((batch.text.pooled == 0).sum().item() for batch in batches)
    # Of 800, four standard deviations.
    assert abs(dark - 400) < 57
    assert abs(dropped - 200) < 49
    assert len(names) == 4
    assert min(names.values()) > 90


def test_pictures_that_cannot_be_read_are_counted_named_and_left_out(make, analogies, caplog):
    analogies[3].b.path.write_bytes(b"no picture")
    analogies[0].b_prime.path.unlink()  # of analogies[2] too
    caplog.set_level(logging.WARNING)
    examples = make(encoders := CountingEncoders())
    examples.prepare()
    assert examples.analogies == [analogies[1]]
    assert encoders.grids == 2
    (message,) = caplog.messages
    for words in ("2 pictures", "3 of 4 analogies", analogies[3].b.path.name, "5.png: there is no such file"):
        assert words in message
    assert set(examples.draw(0).names) == {analogies[1].name}


def test_no_readable_analogy_is_refused(make, analogies):
    for path in {each.path for analogy in analogies for each in analogy.pictures}:
        path.write_bytes(b"")
    with pytest.raises(LoRWebError, match="no analogy left of which all pictures can be read"):
        make().prepare()
    with pytest.raises(LoRWebError, match="no analogy"):
        make(analogies=[])


def test_drawing_a_picture_that_cannot_be_read_names_it(make, analogies):
    analogies[0].a.path.write_bytes(b"")
    with pytest.raises(LoRWebError, match=analogies[0].a.path.name):
        make().batch(analogies[:1])


@pytest.mark.parametrize("factor", [float("nan"), 1e6])
def test_values_that_are_not_finite_are_refused_and_not_kept(make, tmp_path, factor):
    with pytest.raises(LoRWebError, match=r"not finite \(target, reference\) of dark \(data/2.png"):
        make(CountingEncoders(factor)).prepare()
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("cell", [0, 4, 20, -8])
def test_a_cell_that_is_not_of_whole_tokens_is_refused(make, cell):
    with pytest.raises(LoRWebError, match=f"resolution is {cell}; expected a multiple of 8"):
        make(cell=cell)


def test_a_disk_without_room_is_noticed_at_the_first_analogy(make, tmp_path, analogies, monkeypatch):
    make(analogies=analogies[:1], cache=tmp_path / "one").prepare()
    size = max(path.stat().st_size for path in (tmp_path / "one").iterdir())
    usage = shutil.disk_usage(tmp_path)._replace(free=2 * size)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(LoRWebError, match="The cache in .* takes another .* Make room"):
        make(encoders := CountingEncoders()).prepare()
    assert encoders.grids == 2


def test_a_cache_folder_that_cannot_be_made_is_refused(make, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LoRWebError, match=r"cache folder .*file/cache cannot be made"):
        make(cache=tmp_path / "file" / "cache")
