from __future__ import annotations

import math
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lorweb_core import LoRWebError
from lorweb_core.checkpoint import BasisLayer
from lorweb_core.pictures.chart import bar_chart, line_chart, linear_axis, log_axis, whole_axis
from lorweb_core.pictures.loss_curve import mean_width, recent_loss, running_mean, seconds_per_step
from lorweb_core.pictures.training_picture import training_picture
from lorweb_core.space.usage import Usage, measure_usage
from lorweb_core.training.report import write_summary
from lorweb_core.training.settings.config import DatasetSettings, TrainingConfig
from lorweb_core.training.trainer import Step

POSITIVE = st.floats(1e-9, 1e9)
NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False).filter(lambda value: value == 0 or abs(value) > 1e-9)


def steps(count: int, factor: float = 1.0) -> list[Step]:
    return [Step(i + 1, factor * (0.1 + math.exp(-i / 40)), 1e-3, 1.0, 0.5) for i in range(count)]


def usage(layers: int, n: int, seed: int = 0) -> Usage:
    chance = torch.Generator().manual_seed(seed)
    names = [
        f"transformer.single_transformer_blocks.{i // 2}.{('proj_mlp', 'attn.to_q')[i % 2]}" for i in range(layers)
    ]
    one = BasisLayer(torch.ones(n, 4, 1), torch.ones(n, 1, 4), torch.zeros(n, 2), None)
    tables = {name: torch.rand(3, n, generator=chance).softmax(-1) for name in names}
    return measure_usage(tables, dict.fromkeys(names, one))


def is_picture(picture: torch.Tensor) -> bool:
    return picture.ndim == 3 and picture.shape[2] == 3 and bool(((picture >= 0) & (picture <= 1)).all())


@given(st.lists(POSITIVE, min_size=1, max_size=8))
def test_a_logarithmic_axis_holds_all_values_between_round_ends(values):
    axis = log_axis(values)
    assert axis.low <= min(values)
    assert axis.high >= max(values)
    assert len(axis.marks) >= 2
    assert {f"{mark:.6e}"[0] for mark in (axis.low, axis.high)} <= set("125")
    for value in values:
        expected = (math.log(value) - math.log(axis.low)) / (math.log(axis.high) - math.log(axis.low))
        assert axis.place(value) == pytest.approx(expected, abs=1e-9)


@given(st.lists(NUMBERS, max_size=8), st.booleans())
def test_a_linear_axis_holds_all_values_and_has_few_marks_at_even_steps(values, zero):
    axis = linear_axis(values, zero=zero)
    most = max(map(abs, values), default=1.0)
    for value in values + [0.0] * zero:
        assert axis.low - 1e-6 * most <= value <= axis.high + 1e-6 * most
        assert 0 <= axis.place(value) <= 1
    assert 2 <= len(axis.marks) <= 8
    gaps = [b - a for a, b in zip(axis.marks, axis.marks[1:])]
    assert min(gaps) > 0
    assert max(gaps) == pytest.approx(min(gaps), rel=1e-3)


@given(st.integers(1, 200_000))
def test_steps_are_marked_at_whole_numbers_up_to_the_last(last):
    axis = whole_axis(last)
    assert axis.high == last
    assert all(isinstance(mark, int) and 0 <= mark <= last for mark in axis.marks)
    assert 2 <= len(axis.marks) <= 6


@given(st.lists(st.floats(0, 10), min_size=1, max_size=40), st.integers(1, 12))
def test_the_running_mean_is_over_the_last_so_many(values, width):
    expected = [sum(v := values[max(0, i + 1 - width) : i + 1]) / len(v) for i in range(len(values))]
    assert running_mean(values, width) == pytest.approx(expected, abs=1e-9)


def test_figures_of_the_losses():
    losses = [Step(i + 1, float(i), 1e-3, 1.0, 60.0 if i == 0 else 2.0) for i in range(20)]
    assert mean_width(20) == 10
    assert recent_loss(losses) == sum(range(10, 20)) / 10
    assert seconds_per_step(losses) == 2.0


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize(("layers", "n", "count"), [(1, 1, 0), (20, 4, 1), (494, 32, 300), (20, 128, 2)])
def test_a_picture_of_every_size_can_be_drawn(layers, n, count, theme):
    picture = training_picture(steps(count), usage(layers, n), theme)
    assert is_picture(picture)
    assert max(picture.shape) < 2000
    # The corner is the theme's background: nothing runs out of the picture there.
    assert torch.equal(picture[-1, -1], picture[0, 0])


def test_the_picture_shows_the_losses_and_the_usage():
    base = training_picture(steps(50), usage(8, 4))
    assert torch.equal(base, training_picture(steps(50), usage(8, 4)))
    for other in (training_picture(steps(50, 2.0), usage(8, 4)), training_picture(steps(50), usage(8, 4, seed=1))):
        assert other.shape == base.shape
        assert not torch.equal(base, other)
    assert training_picture(steps(50)).shape[1] < base.shape[1]


def test_a_basis_that_changes_nothing_yet_can_be_shown():
    zero = BasisLayer(torch.ones(4, 3, 1), torch.zeros(4, 1, 3), torch.zeros(4, 2), None)
    name = "transformer.transformer_blocks.0.attn.to_q"
    assert is_picture(training_picture(steps(3), measure_usage({name: torch.ones(2, 4) / 4}, {name: zero})))


def test_a_loss_of_zero_and_steps_that_lack_can_be_shown():
    assert is_picture(training_picture([step._replace(loss=0.0) for step in steps(40)[::7]]))


def test_a_line_chart_draws_each_series_in_its_colour():
    one, two = ({"one": [(0, 1), (1, 2)]}, {"one": [(0, 1), (1, 2)], "two": [(0, 2), (1, 1)]})
    pictures = [line_chart(series, "title", "x", "y", "light") for series in (one, two)]
    assert all(map(is_picture, pictures))

    def colours(picture: torch.Tensor) -> set:
        return {tuple(pixel) for pixel in (picture * 255).round().int().flatten(0, 1).unique(dim=0).tolist()}

    blue, orange = (0, 98, 168), (196, 90, 0)
    assert blue in colours(pictures[0])
    assert orange not in colours(pictures[0])
    assert {blue, orange} <= colours(pictures[1])


def test_many_series_have_colours_of_their_own():
    series = {f"basis {i}": [(0, i), (1, i + 1)] for i in range(8)}
    pictures = [line_chart(dict(list(series.items())[:count]), "t", "x", "y") for count in (7, 8)]
    assert is_picture(pictures[1])
    drawn = [len((picture * 255).round().int().flatten(0, 1).unique(dim=0)) for picture in pictures]
    assert drawn[1] > drawn[0]


def bar_height(mean: float, theme: str = "light") -> int:
    """Pixels of the bar's column, beside one of 1."""
    picture = bar_chart({"g": {"a": (1.0, 0.0)}, "h": {"a": (mean, 0.0)}}, "t", "y", theme)
    blue = ((picture * 255).round() == torch.tensor([0.0, 98.0, 168.0])).all(-1)
    return int(blue[:, picture.shape[1] // 2 :].sum(0).max())


def test_bars_are_as_high_as_their_means():
    assert bar_height(0.5) == pytest.approx(bar_height(1.0) / 2, abs=2)
    assert bar_height(0.0) <= 1


def test_a_bar_chart_has_negative_means_missing_bars_and_spreads():
    groups = {"seen": {"one": (0.2, 0.01), "two": (-0.1, 0.3)}, "held out": {"two": (0.4, 0.0)}}
    picture = bar_chart(groups, "Cosine", "mean and spread")
    assert is_picture(picture)
    other = bar_chart(groups | {"held out": {"two": (0.4, 0.1)}}, "Cosine", "mean and spread")
    assert not torch.equal(picture, other)
    assert is_picture(bar_chart({}, "nothing", "y"))


class Page(HTMLParser):
    """Tags with their attributes, and the text between."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def sources(self) -> list[str]:
        return [attributes["src"] for tag, attributes in self.tags if tag == "img"]


@pytest.fixture
def config() -> TrainingConfig:
    return TrainingConfig(name="a & <b>", datasets=(DatasetSettings(folder_path=Path("pairs & <more>")),))


def test_the_page_shows_settings_figures_and_the_newest_samples_first(tmp_path, config):
    strips = [tmp_path / "samples" / f"{name}.png" for name in ("step 1", "step#2")]
    path = write_summary(tmp_path, config, steps(30), usage(4, 4), strips)
    page = Page(path)
    assert path == tmp_path / "summary.html"
    assert not page.open
    assert page.sources() == ["training.png", "samples/step%232.png", "samples/step%201.png"]
    text = "\n".join(page.text)
    for said in ("a & <b>", "30 of 10,000", "0.5", "0 of 4", "network.linear", "datasets.0.folder_path", "<more>"):
        assert said in text
    assert "<b>" not in path.read_text(encoding="utf-8")
    assert not any(value.startswith("http") for _, attributes in page.tags for value in attributes.values() if value)
    sizes = {Image.open(tmp_path / name).size for name in ("training.png", "training-dark.png")}
    assert len(sizes) == 1


def test_a_page_can_be_written_before_the_first_step_and_without_usage(tmp_path, config):
    page = Page(write_summary(tmp_path, config, [], None, []))
    assert "0 of 10,000" in page.text
    assert page.sources() == ["training.png"]


def test_a_page_is_written_over_and_nothing_else_is_left(tmp_path, config):
    write_summary(tmp_path, config, steps(3), None, [])
    page = write_summary(tmp_path, config, steps(7), None, [])
    assert "7 of 10,000" in page.read_text(encoding="utf-8")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["summary.html", "training-dark.png", "training.png"]


def test_a_page_that_cannot_be_written_says_so(tmp_path, config):
    with pytest.raises(LoRWebError, match=r"could not be written into"):
        write_summary(tmp_path / "missing", config, [], None, [])
