"""The command line and its merge, on diffusers: against the published numbers, and whole on small stand-ins."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import parity
import pytest
import standins
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lorweb_core import LoRWebError, load_basis

pytest.importorskip("diffusers", reason="needs diffusers: pip install .[cli]")
pytest.importorskip("transformers", reason="needs transformers: pip install .[cli]")

import standins_diffusers
from diffusers import FluxTransformer2DModel

from lorweb_core.__main__ import main
from lorweb_core.diffusers_backend.pipeline import attach, merge, run_analogy
from lorweb_core.files.image_file import read_image
from lorweb_core.grid import Size

pytestmark = pytest.mark.usefixtures("one_thread")

QUERY_WIDTH = 3 * 24


# The merge


@pytest.fixture
def transformer(monkeypatch) -> FluxTransformer2DModel:
    """The fixture's FLUX. The timestep frequencies are the ones of the machine that made the fixture: rounded the
    other way, seven of 128 move even the base model's output by 5e-6 (see parity.fixture_frequencies)."""

    def embedding(timesteps: torch.Tensor, *_, **__) -> torch.Tensor:
        angles = timesteps.float()[:, None] * parity.fixture_frequencies()
        return torch.cat([angles.cos(), angles.sin()], -1)

    monkeypatch.setattr("diffusers.models.embeddings.get_timestep_embedding", embedding)
    with safe_open(parity.FILE, "pt") as file:
        model = FluxTransformer2DModel(**json.loads(file.metadata()["cfg"]))
    weights = {name.removeprefix("base."): t for name, t in parity.load_parity().items() if name.startswith("base.")}
    model.load_state_dict(weights)
    return model.eval()


def velocity(transformer: FluxTransformer2DModel, text: str = "txt") -> torch.Tensor:
    """Of the fixture's inputs, (1, 16, 8, 8)."""
    inputs = parity.load_parity()

    def tokens(latent: torch.Tensor) -> torch.Tensor:
        return latent.view(1, 16, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 16, 64)

    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    positions = [torch.stack([torch.full((4, 4), frame), rows, columns], -1).view(16, 3) for frame in (0.0, 1.0)]
    with torch.no_grad():
        out = transformer(
            hidden_states=torch.cat([tokens(inputs["latent"]), tokens(inputs["reference"])], 1),
            timestep=torch.tensor([0.6]),
            guidance=torch.tensor([2.5]),
            pooled_projections=inputs["pooled"],
            encoder_hidden_states=inputs[text].float(),
            txt_ids=torch.zeros(inputs[text].shape[1], 3),
            img_ids=torch.cat(positions),
        ).sample[:, :16]
    return out.view(1, 4, 4, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, 16, 8, 8)


def test_the_base_model_is_the_fixtures(transformer):
    assert parity.relative_error(velocity(transformer), parity.load_parity()["velocity.base"]) < 1e-6


@pytest.mark.parametrize("case", parity.CASES)
def test_merge_gives_the_published_output(transformer, tmp_path, case):
    expected = parity.load_parity()
    merge(transformer, load_basis(parity.write_checkpoint(tmp_path, case)).route(expected["query"]))
    assert parity.relative_error(velocity(transformer), expected[f"velocity.{case}"]) < 1e-5


@pytest.mark.parametrize(("mode", "pooling"), parity.ACTIVATION_CASES)
def test_activation_routed_bases_give_the_published_output(transformer, tmp_path, mode, pooling):
    basis = load_basis(parity.write_activation_checkpoint(tmp_path, mode, pooling))
    attach(transformer, basis.route(None), 1.0, Size(64, 64), torch.device("cpu"))
    expected = parity.load_parity()[f"velocity.activation.{mode}.{pooling}"]
    assert parity.relative_error(velocity(transformer, "txt512"), expected) < 1e-5
    assert not any(module._forward_hooks for module in transformer.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in transformer.modules())


def test_merge_keeps_dtypes_and_rounds_once(transformer, tmp_path):
    mixture = load_basis(parity.write_checkpoint(tmp_path, "softmax_mean_4")).route(parity.load_parity()["query"])
    layer = "transformer.transformer_blocks.0.attn.to_q"
    weight = transformer.bfloat16().transformer_blocks[0].attn.to_q.weight
    expected = (weight.detach().float() + 0.5 * mixture.delta(layer)).bfloat16()
    merge(transformer, mixture, strength=0.5)
    assert transformer.dtype == torch.bfloat16
    assert torch.equal(weight, expected)


def lacking(transformer: FluxTransformer2DModel) -> str:
    transformer.single_transformer_blocks = torch.nn.ModuleList()
    return "lacks 6 of the 20 layers"


def of_another_size(transformer: FluxTransformer2DModel) -> str:
    transformer.single_transformer_blocks[0].proj_out = torch.nn.Linear(128, 128)
    return "single_transformer_blocks.0.proj_out"


@pytest.mark.parametrize("change", [lacking, of_another_size])
def test_merge_refuses_another_model_and_leaves_it_as_it_was(transformer, tmp_path, change):
    mixture = load_basis(parity.write_checkpoint(tmp_path, "softmax_mean_4")).route(parity.load_parity()["query"])
    words = change(transformer)
    before = {name: weight.clone() for name, weight in transformer.state_dict().items()}
    with pytest.raises(LoRWebError, match=words):
        merge(transformer, mixture)
    assert all(torch.equal(weight, before[name]) for name, weight in transformer.state_dict().items())


# The command line


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with pipeline/, encoder/, a basis for both, and the triplet."""
    folder = tmp_path_factory.mktemp("models")
    standins_diffusers.make_pipeline(folder / "pipeline")
    standins.image_encoder(folder / "encoder", width=QUERY_WIDTH // 3)
    blocks = standins.block_linears(standins.HIDDEN, doubles=2, singles=2)
    save_file(standins.basis(blocks, n=4, rank=2, keys=8, query=QUERY_WIDTH), folder / "basis.safetensors")
    for name, size, colour in (("a", (90, 60), "red"), ("a_prime", (64, 64), "blue"), ("b", (50, 70), "green")):
        Image.new("RGB", size, colour).save(folder / f"{name}.png")
    return folder


def command(models: Path, out: Path, **changed: object) -> list[str]:
    """The words of a command line; `changed` replaces or adds options, None drops one."""
    options = {
        "a": models / "a.png",
        "a_prime": models / "a_prime.png",
        "b": models / "b.png",
        "prompt": "make it blue",
        "basis": models / "basis.safetensors",
        "model": models / "pipeline",
        "encoder": models / "encoder",
        "out": out,
        "steps": 2,
        "megapixels": 0.02,
        "device": "cpu",
    } | changed
    given = {f"--{name.replace('_', '-')}": value for name, value in options.items() if value is not None}
    return ["analogy", *(str(word) for pair in given.items() for word in pair)]


def test_the_analogy_writes_both_pictures(models, tmp_path):
    assert main(command(models, tmp_path / "out.png")) == 0
    result, grid = Image.open(tmp_path / "out.png"), Image.open(tmp_path / "out-grid.png")
    assert result.size == (50, 70)
    assert grid.size == (176, 112)
    assert len(result.getcolors(maxcolors=2**24)) > 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-grid.png", "out.png"]


def test_b_alone_comes_without_a_grid_where_it_is_asked_for_or_the_basis_was_trained_so(models, tmp_path):
    asked, trained, config = tmp_path / "asked.png", tmp_path / "trained.png", tmp_path / "config.yaml"
    assert main(command(models, asked, sampled="result")) == 0
    config.write_text("config: {process: [{network: {linear: 2}, train: {sampled: result}}]}")
    assert main(command(models, trained, config=config)) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["asked.png", "config.yaml", "trained.png"]
    assert asked.read_bytes() == trained.read_bytes()
    assert Image.open(asked).size == (50, 70)
    whole = tmp_path / "whole.png"
    assert main(command(models, whole, config=config, sampled="grid")) == 0
    assert Image.open(tmp_path / "whole-grid.png").size == (176, 112)


def test_the_picture_depends_on_b_strength_and_seed_and_on_nothing_else(models, tmp_path):
    def pixels(**changed) -> bytes:
        assert main(command(models, tmp_path / "out.bmp", **changed)) == 0
        return (tmp_path / "out.bmp").read_bytes()

    first = pixels()
    assert pixels() == first
    for changed in ({"b": models / "a.png"}, {"strength": 0}, {"seed": 51}):
        assert pixels(**changed) != first


@pytest.mark.parametrize("every", [1, 0], ids=["computed", "kept"])
@pytest.mark.parametrize("sampled", ["grid", "result"])
def test_b_goes_through_grid_attention_and_cut_to_its_own_place(models, tmp_path, sampled, every):
    """The stand-in model paints what it is shown: without a mixture b' is b, to the autoencoder's 8 pixels."""
    scene = standins.picture(False, "tree", size=(200, 300))
    Image.fromarray((scene * 255).byte().numpy()).save(tmp_path / "scene.png")
    changed = {"b": tmp_path / "scene.png", "strength": 0, "steps": 6, "megapixels": 0.15}
    changed |= {"sampled": sampled, "references_every": every}
    assert main(command(models, tmp_path / "out.png", **changed)) == 0
    difference = read_image(tmp_path / "out.png") - scene
    assert difference[30:-30, 30:-30].abs().mean() < 10 / 255


@pytest.mark.parametrize("bar", [True, False])
def test_the_bar_of_the_steps_can_be_left_out(models, capfd, bar):
    images = (read_image(models / f"{name}.png", name) for name in ("a", "a_prime", "b"))
    given = {"encoder": models / "encoder", "megapixels": 0.02, "device": "cpu", "text_tokens": 16}
    run_analogy(*images, "", models / "basis.safetensors", models / "pipeline", steps=3, bar=bar, **given)
    assert ("| 3/3 [" in capfd.readouterr().err) == bar


def test_an_activation_routed_basis_needs_no_image_encoder(models, tmp_path):
    blocks = standins.block_linears(standins.HIDDEN, doubles=2, singles=2)
    basis = tmp_path / "activation.safetensors"
    save_file(standins.basis(blocks, n=4, rank=2, keys=8, query=None, strength=0.01), basis)
    made = []
    for strength in (0, 1):
        changed = {"basis": basis, "encoder": tmp_path / "absent", "strength": strength}
        assert main(command(models, tmp_path / "out.bmp", **changed)) == 0
        made.append((tmp_path / "out.bmp").read_bytes())
    assert made[0] != made[1]


def test_an_activation_routed_basis_needs_its_references_in_every_step(models, tmp_path, capfd):
    blocks = standins.block_linears(standins.HIDDEN, doubles=2, singles=2)
    basis = tmp_path / "activation.safetensors"
    save_file(standins.basis(blocks, n=4, rank=2, keys=8, query=None, strength=0.01), basis)
    refused(models, tmp_path, capfd, "cannot be kept", "activation.safetensors", basis=basis, references_every=0)
    assert main(command(models, tmp_path / "out.png", basis=basis, sampled="result")) == 0


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_fit(models, tmp_path, fit):
    assert main(command(models, tmp_path / "out.jpg", fit=fit, steps=1)) == 0
    assert Image.open(tmp_path / "out.jpg").size == ((50, 70) if fit == "pad" else (50, 32))


def refused(models: Path, folder: Path, capfd, *words: str, **changed: object) -> None:
    """The command ends with 2 and one line on stderr that has these words, and nothing in the folder has changed."""
    before = sorted(folder.rglob("*"))
    capfd.readouterr()
    assert main(command(models, **{"out": folder / "out.png"} | changed)) == 2
    said = capfd.readouterr().err
    assert said.startswith("lorweb: ")
    assert said.count("\n") == 1 and said.endswith("\n")
    for word in words:
        assert word in said
    assert sorted(folder.rglob("*")) == before


def test_refused_pictures(models, tmp_path, capfd):
    refused(models, tmp_path, capfd, "--b", "no such file", b=tmp_path / "absent.png")
    refused(models, tmp_path, capfd, "--a", "not an image", a=models / "basis.safetensors")
    refused(models, tmp_path, capfd, "--a-prime", "is a folder", a_prime=models)
    (tmp_path / "cut.png").write_bytes((models / "b.png").read_bytes()[:-40])
    refused(models, tmp_path, capfd, "--b", "not an image", b=tmp_path / "cut.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "tiny.png")
    refused(models, tmp_path, capfd, "9×9", a=tmp_path / "tiny.png")


def test_refused_outputs(models, tmp_path, capfd):
    refused(models, tmp_path, capfd, "no folder", out=tmp_path / "absent" / "out.png")
    refused(models, tmp_path, capfd, "is a folder", out=tmp_path)
    refused(models, tmp_path, capfd, "is a folder", out="")
    refused(models, tmp_path, capfd, "cannot write .txt", out=tmp_path / "out.txt")
    refused(models, tmp_path, capfd, "without suffix", out=tmp_path / "out")
    refused(models, tmp_path, capfd, "overwrite --b", out=models / "b.png")


def test_refused_numbers_and_words(models, tmp_path, capfd):
    refused(models, tmp_path, capfd, "--steps", steps="many")
    refused(models, tmp_path, capfd, "--fit", fit="squeeze")
    refused(models, tmp_path, capfd, "--prompt", prompt=None)
    refused(models, tmp_path, capfd, "steps is 0", steps=0)
    refused(models, tmp_path, capfd, "megapixels is nan", megapixels="nan")
    refused(models, tmp_path, capfd, "strength is inf", strength="inf")
    refused(models, tmp_path, capfd, "seed is -1", seed=-1)
    refused(models, tmp_path, capfd, "--sampled", "grid", "result", sampled="half")
    refused(models, tmp_path, capfd, "references_every is -1", references_every=-1)
    for device in ("toaster", "meta", "cuda:99"):
        refused(models, tmp_path, capfd, device, device=device)


def test_refused_bases(models, tmp_path, capfd):
    refused(models, tmp_path, capfd, "absent", basis=tmp_path / "absent.safetensors")
    refused(models, tmp_path, capfd, "a.png", basis=models / "a.png")
    refused(models, tmp_path, capfd, "not a LoRWeB training config", config=models / "encoder" / "config.json")
    blocks = standins.block_linears(standins.HIDDEN, doubles=3, singles=2)
    weights = standins.basis(blocks, n=2, rank=2, keys=8, query=QUERY_WIDTH)
    path = tmp_path / "large.safetensors"
    save_file(weights, path)
    refused(models, tmp_path, capfd, "lacks 14 of the 54 layers", basis=path)
    next(iter(weights.values()))[0, 0, 0] = float("nan")
    save_file(weights, path)
    refused(models, tmp_path, capfd, "NaN", basis=path)


def test_refused_models_and_encoders(models, tmp_path, capfd):
    refused(models, tmp_path, capfd, "no such folder", model=tmp_path / "absent")
    refused(models, tmp_path, capfd, "model_index.json", model=models / "encoder")
    refused(models, tmp_path, capfd, "no such folder", encoder=tmp_path / "absent")
    refused(models, tmp_path, capfd, "image encoder", encoder=models)
    text_encoder = models / "pipeline" / "text_encoder"
    refused(models, tmp_path, capfd, "clip_text_model", "not a CLIP or SigLIP image encoder", encoder=text_encoder)
    part = standins.image_encoder(tmp_path / "part", 24)
    weights = load_file(part / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, part / "model.safetensors", {"format": "pt"})
    refused(models, tmp_path, capfd, "it has no visual_projection.weight", encoder=part)
    wide = standins.image_encoder(tmp_path / "wide", width=32)
    refused(models, tmp_path, capfd, "takes 72", encoder=wide)
    index = models / "pipeline" / "model_index.json"
    other = tmp_path / "other"
    other.mkdir()
    (other / "model_index.json").write_text(index.read_text().replace("FluxKontext", "Flux"))
    refused(models, tmp_path, capfd, "FluxPipeline", model=other)
    (other / "model_index.json").write_text(index.read_text())
    (other / "transformer").symlink_to(models / "pipeline" / "transformer")
    refused(models, tmp_path, capfd, "cannot be loaded as FLUX.1-Kontext", model=other)


def test_a_missing_extra_is_named(models, tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    refused(models, tmp_path, capfd, "diffusers not installed", "pip install .[cli]")


def test_interrupting_ends_quietly(models, tmp_path, capfd, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lorweb_core.diffusers_backend.pipeline.merge", interrupted)
    assert main(command(models, tmp_path / "out.png")) == 130
    assert "Traceback" not in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_needs_no_extra(tmp_path):
    blocked = "import sys; sys.modules.update(dict.fromkeys(('diffusers', 'transformers', 'PIL', 'numpy')));"
    script = f"{blocked} from lorweb_core.__main__ import main; main(['analogy', '--help'])"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert "--a-prime" in done.stdout
