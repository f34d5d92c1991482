"""`python -m lorweb_core fit`, and what `analogy` makes of a mixture, whole, on small stand-ins."""

from __future__ import annotations

from pathlib import Path

import pytest
import standins
import torch
from PIL import Image
from safetensors.torch import save_file

pytest.importorskip("diffusers", reason="needs diffusers: pip install .[cli]")
pytest.importorskip("transformers", reason="needs transformers: pip install .[cli]")

import standins_diffusers

from lorweb_core import Mixture, load_basis
from lorweb_core.__main__ import main
from lorweb_core.diffusers_backend.fit_terminal import FitBars
from lorweb_core.space.mixture_file import load_mixture, save_mixture

pytestmark = pytest.mark.usefixtures("one_thread")

EMBEDDING = 24
LAYERS = 2 * 14 + 2 * 6


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with pipeline/, encoder/, a basis for both that is asked what a' changes in a, and pictures."""
    folder = tmp_path_factory.mktemp("models")
    standins_diffusers.make_pipeline(folder / "pipeline")
    standins.image_encoder(folder / "encoder", width=EMBEDDING)
    blocks = standins.block_linears(standins.HIDDEN, doubles=2, singles=2)
    save_file(standins.basis(blocks, n=4, rank=2, keys=8, query=EMBEDDING), folder / "basis.safetensors")
    network = '{linear: 2, network_kwargs: {query_mode: "ca\'-ca"}}'
    (folder / "basis.yaml").write_text(f"config: {{process: [{{network: {network}}}]}}")
    for name, night in (("a", False), ("a_prime", True), ("c", False), ("c_prime", True)):
        scene = standins.picture(night, "house" if "a" in name else "tree", (60, 90))
        Image.fromarray((scene * 255).byte().numpy()).save(folder / f"{name}.png")
    return folder


def command(models: Path, out: Path, **changed: object) -> list[str]:
    """The words of a command line; `changed` replaces or adds options, None drops one and True is no value."""
    options = {
        "a": models / "a.png",
        "a_prime": models / "a_prime.png",
        "basis": models / "basis.safetensors",
        "model": models / "pipeline",
        "encoder": models / "encoder",
        "out": out,
        "steps": 3,
        "megapixels": 0.005,
        "text_tokens": 16,
        "device": "cpu",
    } | changed
    words = [changed.get("command", "fit")]
    for name, value in options.items():
        if value is None or name == "command":
            continue
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words


def fitted(models: Path, out: Path, *more: str, **changed: object) -> Mixture:
    assert main([*command(models, out, **changed), *more]) == 0
    return load_mixture(out, load_basis(models / "basis.safetensors"))


def analogy(models: Path, out: Path, **changed: object) -> bytes:
    asked = {"command": "analogy", "b": models / "c.png", "prompt": "", "steps": 1} | changed
    assert main(command(models, out, **asked)) == 0
    return out.read_bytes()


def test_a_mixture_is_fitted_and_says_so(models, tmp_path, capsys):
    found = fitted(models, tmp_path / "night.safetensors", steps=10)
    said = capsys.readouterr()
    assert "Wrote" in said.out and "night.safetensors" in said.out
    assert f"Fitting {4 * LAYERS} values" in said.out
    assert "Fitting: 100%" in said.err and "10/10" in said.err and "loss=" in said.err and "apart=" in said.err
    assert len(found.coefficients) == LAYERS
    assert found.thumbnails[0].a.shape == (60, 90, 3)
    begun = fitted(models, tmp_path / "begun.safetensors", steps=1, rate=1e-6)
    assert (found.table - begun.table).abs().mean() > 0.001


def test_memory_is_told_before_anything_is_loaded(models, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lorweb_core.diffusers_backend.fit_command.load_base", None)
    with pytest.raises(TypeError):
        main(command(models, tmp_path / "out.safetensors"))
    assert "Fitting takes about 0.1 GB of memory (0.1 for the model, 0.0 for the basis" in capsys.readouterr().out


def test_it_begins_where_it_is_told(models, tmp_path):
    basis = load_basis(models / "basis.safetensors")
    tiny = {"steps": 1, "rate": 1e-6}
    zeros = fitted(models, tmp_path / "zeros.safetensors", start="zeros", encoder=tmp_path / "absent", **tiny)
    torch.testing.assert_close(zeros.table, basis.route(torch.zeros(EMBEDDING)).table, rtol=0, atol=1e-5)
    elsewhere = basis.route(torch.ones(EMBEDDING))
    save_mixture(elsewhere, tmp_path / "start.safetensors")
    found = fitted(models, tmp_path / "from.safetensors", start=tmp_path / "start.safetensors", encoder=None, **tiny)
    torch.testing.assert_close(found.table, elsewhere.table, rtol=0, atol=1e-5)
    routed = fitted(models, tmp_path / "routed.safetensors", **tiny)
    assert (routed.table - zeros.table).abs().max() > 1e-3


def test_several_pairs_are_given_pair_by_pair(models, tmp_path):
    more = ["--a", str(models / "c.png"), "--a-prime", str(models / "c_prime.png")]
    found = fitted(models, tmp_path / "night.safetensors", *more, flips=True, quantize=True)
    assert len(found.thumbnails) == 2
    refused(models, tmp_path, None, "pair by pair", "2 times", "1 times", more=more[:2])


def test_a_saved_mixture_is_used_without_an_encoder(models, tmp_path):
    fitted(models, tmp_path / "night.safetensors", steps=5)
    out = tmp_path / "out.bmp"
    used = analogy(models, out, mixture=tmp_path / "night.safetensors", encoder=tmp_path / "absent")
    assert used != analogy(models, out)


def test_an_analogy_that_fits_is_a_fit_and_then_an_analogy(models, tmp_path):
    fitted(models, tmp_path / "night.safetensors", prompt="night", steps=6)
    apart = analogy(models, tmp_path / "out.bmp", mixture=tmp_path / "night.safetensors", prompt="night")
    assert apart == analogy(models, tmp_path / "out.bmp", fit_steps=6, prompt="night")
    assert apart != analogy(models, tmp_path / "out.bmp", prompt="night")


def test_ctrl_c_keeps_the_best_so_far(models, tmp_path, monkeypatch, capsys):
    five = fitted(models, tmp_path / "five.safetensors", steps=5)

    def interrupt(self, step, steps) -> None:
        if step.number == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(FitBars, "on_step", interrupt)
    out = tmp_path / "best.safetensors"
    assert main(command(models, out, steps=10)) == 130
    assert "Interrupted after step 7" in capsys.readouterr().out
    assert torch.equal(load_mixture(out, load_basis(models / "basis.safetensors")).table, five.table)
    picture = {"command": "analogy", "b": models / "c.png", "prompt": "", "steps": 1, "fit_steps": 10}
    assert main(command(models, tmp_path / "out.png", **picture)) == 130
    assert not (tmp_path / "out.png").exists()


def refused(models: Path, folder: Path, capsys, *words: str, more=(), **changed: object) -> None:
    """The command ends with 2, nothing is written, and if there is a capsys its one line has these words."""
    before = sorted(folder.rglob("*"))
    asked = {"out": folder / "out.safetensors"} | changed
    assert main([*command(models, **asked), *more]) == 2
    assert sorted(folder.rglob("*")) == before
    if capsys:
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("lorweb: ")
        for word in words:
            assert word in said


def test_refused(models, tmp_path, capsys):
    basis = models / "basis.safetensors"
    refused(models, tmp_path, capsys, "expected .safetensors", out=tmp_path / "out.png")
    refused(models, tmp_path, capsys, "no folder", out=tmp_path / "absent" / "out.safetensors")
    refused(models, tmp_path, capsys, "overwrite --basis", out=basis)
    refused(models, tmp_path, capsys, "no change", a_prime=models / "a.png")
    refused(models, tmp_path, capsys, "no such file", a=models / "absent.png")
    refused(models, tmp_path, capsys, "rate is 0", rate=0)
    refused(models, tmp_path, capsys, "text_tokens is 0", text_tokens=0)
    refused(models, tmp_path, capsys, "not a saved mixture but a basis", start=basis)
    refused(models, tmp_path, capsys, "--fitted", "logits", fitted="all")
    refused(models, tmp_path, capsys, "no such folder", model=tmp_path / "absent")
    asked = {"command": "analogy", "b": models / "c.png", "prompt": "", "out": tmp_path / "out.png"}
    refused(models, tmp_path, capsys, "not a saved mixture but a basis", mixture=basis, **asked)
    refused(models, tmp_path, capsys, "fit_steps is -1", fit_steps=-1, **asked)
    refused(models, tmp_path, capsys, "no change", fit_steps=1, a_prime=models / "a.png", **asked)


def test_an_activation_routed_basis_has_nothing_to_fit(models, tmp_path, capsys):
    blocks = standins.block_linears(standins.HIDDEN, doubles=2, singles=2)
    basis = tmp_path / "activation.safetensors"
    save_file(standins.basis(blocks, n=4, rank=2, keys=8, query=None), basis)
    refused(models, tmp_path, capsys, "no mixture that could be fitted", basis=basis)
