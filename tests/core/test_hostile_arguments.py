"""Texts that nobody means well on the command line, and as settings of the functions: one line that can be printed."""

from __future__ import annotations

import io
import sys

import pytest
import torch

from lorweb_core import LoRWebError, Mixture, load_basis
from lorweb_core.__main__ import main
from lorweb_core.demonstrations import mix
from lorweb_core.export.lora_export import export_lora
from lorweb_core.grid import Size, area_size, cut_result, fitted
from lorweb_core.layer_names import select
from lorweb_core.layout import attention_bias, find_layout
from lorweb_core.pictures.canvas import Canvas
from lorweb_core.query import encode_queries
from lorweb_core.score import rank
from lorweb_core.space.blend import blend, sweep
from lorweb_core.space.edit import Edit, edit

HOSTILE = ["half\ud800", "a\0b", "x" * 1_000_000, "\x1b[2J" * 1000, "9" * 5000]
OPTIONS = ["--a", "--a-prime", "--b", "--basis", "--config", "--model", "--encoder", "--out", "--prompt"]
NUMBERS = ["--steps", "--guidance", "--seed", "--megapixels", "--strength", "--text-tokens", "--fit", "--device"]


def in_words(message: str) -> None:
    message.encode()
    assert message.isprintable()
    assert len(message) < 1000


def refused(call, *values) -> None:
    with pytest.raises(LoRWebError) as error:
        call(*values)
    in_words(str(error.value))


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("option", [*OPTIONS, *NUMBERS, "--none"])
def test_options_of_analogy(tmp_path, capsys, option, text):
    given = {name: str(tmp_path / "none") for name in OPTIONS} | {option: text}
    assert main(["analogy", *(f"{name}={value}" for name, value in given.items())]) == 2
    in_words(capsys.readouterr().err.strip())


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "option", ["--a", "--basis", "--model", "--out", "--start", "--fitted", "--steps", "--rate", "--seed", "--prompt"]
)
def test_options_of_fit(tmp_path, capsys, option, text):
    given = {name: str(tmp_path / "none") for name in ("--a", "--a-prime", "--basis", "--model", "--out")}
    assert main(["fit", *(f"{name}={value}" for name, value in (given | {option: text}).items())]) == 2
    in_words(capsys.readouterr().err.strip())


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("option", ["--data", "--basis", "--model", "--out", "--group", "--lora", "--clip", "--judge"])
def test_options_of_evaluate(tmp_path, capsys, option, text):
    given = {name: str(tmp_path / "none") for name in ("--data", "--basis", "--model", "--out")} | {"--lpips": "none"}
    assert main(["evaluate", *(f"{name}={value}" for name, value in (given | {option: text}).items())]) == 2
    in_words(capsys.readouterr().err.strip())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", HOSTILE)
def test_arguments_of_train(tmp_path, capsys, text):
    config = tmp_path / "x.yaml"
    config.write_text("config:\n  name: small\n  process:\n  - datasets: [{folder_path: pairs}]\n")
    for arguments in ([text], [str(config), "--set", text], [str(config), "--set", f"train.lr={text}"]):
        assert main(["train", *arguments]) == 2
        in_words(capsys.readouterr().err.strip())
    assert main([text]) == 2


def test_what_a_terminal_cannot_show_does_not_end_a_command(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    main(["train", str(tmp_path / "none.yaml")])
    print("é × \ud800", flush=True)


@pytest.mark.parametrize("text", HOSTILE)
def test_settings_of_the_functions(weights, save, tmp_path, text):
    basis = load_basis(save(weights, query_mode="cat-aa'b"))
    mixture = Mixture(basis, basis.route(torch.randn(1, 12)).coefficients)
    for call in (
        lambda: mix(basis, None, [], text),
        lambda: encode_queries(None, [], text),
        lambda: find_layout(text),
        lambda: fitted(torch.zeros(16, 16, 3), Size(16, 16), Size(16, 16), text),
        lambda: Canvas(8, 8, text),
        lambda: rank([], text),
        lambda: blend([mixture], [1.0], text),
        *(lambda name=name: select(basis.layers, **{name: text}) for name in ("blocks", "kind", "stream")),
        *(lambda name=name: edit(mixture, Edit(**{name: text})) for name in ("mute", "solo")),
        lambda: edit(mixture, Edit(mute="0-3, " * 100_000)),
        lambda: select(basis.layers, "double 1, " * 100_000),
        lambda: select(basis.layers, f"double {text}"),
        *(lambda name=name: export_lora(mixture, tmp_path / "x", **{name: text}) for name in ("mode", "dtype")),
    ):
        refused(call)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_numbers_of_the_functions(weights, save, tmp_path, number):
    basis = load_basis(save(weights, query_mode="cat-aa'b"))
    mixture = Mixture(basis, basis.route(torch.randn(1, 12)).coefficients)
    for call in (
        lambda: area_size(Size(16, 16), number),
        lambda: attention_bias("grid", [Size(2, 2)], 1, number if number != 1e300 else 0, 1.0),
        lambda: edit(mixture, Edit(scale=number)),
        lambda: edit(mixture, Edit(top_p=number)),
        lambda: blend([mixture], [number]),
        lambda: sweep([mixture], [1.0], 10**9),
        lambda: cut_result(torch.zeros(1, 16, 16, 3), pairs=100),
        lambda: cut_result(torch.zeros(1, 16, 16, 3), pairs=-1),
        lambda: attention_bias("grid", [Size(2, 2)], 0, 1.0, 1.0),
        lambda: export_lora(mixture, tmp_path / "x.safetensors", strength=number),
        lambda: export_lora(mixture, tmp_path / "x.safetensors", mode="rank", strength=number),
        lambda: export_lora(mixture, tmp_path / "x.safetensors", mode="error", error=number),
    ):
        refused(call)
    assert not (tmp_path / "x.safetensors").exists()
