"""Train Basis in a real host: a small FLUX, pictures in a folder, and a basis that loads."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import parity
import pytest
import standins
import torch
from host_models import hooks, unchanged, weights
from pairs import save_pairs

INPUTS = ("latent", "reference", "txt", "pooled")


@pytest.fixture
def pictures(host, request):
    """Three edits of three pairs, in the host's input folder."""
    import folder_paths

    torch.manual_seed(0)
    edits = {"bright": lambda x: x**0.5, "inverted": lambda x: 1 - x, "night": lambda x: x * 0.3}
    scenes = {i: standins.picture(False, ("house", "tree")[i % 2], (48, 48)).roll(i * 7, 1) for i in range(3)}
    folder = Path(folder_paths.get_input_directory(), request.node.name)
    yield save_pairs(folder, edits, scenes)
    shutil.rmtree(folder)


@pytest.fixture
def encoder(host):
    """In the folder that it is looked for in; what a test trained goes with it."""
    folder = host.models / "clip_vision" / "clip-vit-large-patch14"
    shutil.rmtree(folder, ignore_errors=True)
    with torch.inference_mode(False):
        standins.image_encoder(folder, standins.QUERY_WIDTH)
    host.encoder._encoder_from_folder.cache_clear()
    yield
    host.encoder._encoder_from_folder.cache_clear()
    shutil.rmtree(folder)
    for run in (host.models / "lorweb").iterdir():
        if run.is_dir():
            shutil.rmtree(run)


@pytest.fixture
def train(host, encoder, vae, pictures, request):
    """The node as the host calls it, small and short."""

    def train(model, text=None, **given):
        tensors = text or parity.load_parity()
        positive = [[tensors["txt"].float(), {"pooled_output": tensors["pooled"].float(), "guidance": 2.5}]]
        widgets = {i.id: i.default for i in host.node("LoRWeBTrainBasis").GET_SCHEMA().inputs if hasattr(i, "default")}
        small = {
            "folder": str(pictures),
            "loras": 3,
            "rank": 2,
            "keys_dim": 8,
            "steps": 4,
            "resolution": 32,
            "sample_every": 0,
            "name": request.node.name,
        }
        widgets = {key: value for key, value in (widgets | small | given).items() if value is not None}
        return host.node("LoRWeBTrainBasis").execute(model=model, vae=vae, positive=positive, **widgets).result

    return train


def test_a_basis_is_learned_saved_and_ready_for_the_encoder(host, load_flux, velocity, train, request):
    import comfy.model_management

    model = load_flux()
    before, untrained = weights(model), velocity(model)
    basis, samples, report, curves = train(
        model, steps=30, batch_size=3, learning_rate=3e-3, held_out="night", sample_every=20, save_every=25
    )
    assert unchanged(model, before)
    assert hooks(model) == 0
    assert not comfy.model_management.in_training
    torch.testing.assert_close(velocity(model), untrained, rtol=0, atol=0)

    report = json.loads(report)
    losses = report["loss"]["all"]
    assert len(losses) == report["steps"] == 30
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    assert report["held_out"] == ["night"]
    assert report["analogies"] == 12
    assert report["usage"]["dead"] == []
    assert [(picture.ndim, picture.shape[-1]) for picture in (samples, curves)] == [(4, 3), (4, 3)]

    folder = host.models / "lorweb" / request.node.name
    assert basis.name == f"{request.node.name}.safetensors"
    expected = {"resume.pt", "losses.csv", "summary.html", "samples", basis.name, f"{request.node.name}_000000025.yaml"}
    assert expected <= {path.name for path in folder.iterdir()}
    assert [path.name for path in sorted((folder / "samples").iterdir())] == ["000000020.png", "000000030.png"]
    (name,) = [n for n in options(host) if n.endswith(basis.name)]
    (listed,) = host.node("LoRWeBBasisLoader").execute(name, "auto").result
    assert (listed.config.loras_num, listed.config.linear, listed.config.query_mode) == (3, 2, "cat-aa'b")

    a, b = standins.picture(False, "house", (48, 48))[None], standins.picture(False, "tree", (48, 48))[None]
    (mixture,) = host.node("LoRWeBAnalogyEncoder").execute(listed, a, 1 - a, b).result
    assert all(layer.B.abs().max() > 0 for layer in listed.layers.values())
    for method in ("merge", "runtime"):
        changed = velocity(host.apply.apply_mixture(model, mixture, method=method))
        assert parity.relative_error(changed, untrained) > 1e-3


def options(host) -> list[str]:
    inputs = {i.id: i for i in host.node("LoRWeBBasisLoader").define_schema().inputs}
    return inputs["basis_name"].options


def test_checkpointed_gradients_are_those_of_the_plain_ones(load_flux, train):
    reports = [
        json.loads(train(load_flux(), gradient_checkpointing=on, steps=3, learning_rate=1e-2, name=f"plain{on}")[2])
        for on in (True, False)
    ]
    first, second = (report["loss"]["all"] for report in reports)
    torch.testing.assert_close(torch.tensor(first), torch.tensor(second), rtol=1e-5, atol=0)
    assert len(set(first)) == 3


@pytest.fixture
def loss_of(host):
    """A context with the loss of a MODEL with a basis on it, a function, and the basis's parameters."""
    pack = host.core.__name__.removesuffix(".lorweb_core")
    batch, learned = (sys.modules[f"{pack}.lorweb_core.training.{name}"] for name in ("data.batch", "trainable_basis"))
    config = sys.modules[f"{pack}.lorweb_core.config"].BasisConfig(linear=2, loras_num=2, lora_keys_dim=4)

    @contextmanager
    def loss_of(model, inputs: dict, checkpointing: bool):
        with torch.inference_mode(False):
            base = sys.modules[f"{pack}.nodes.host.training_model"].HostBase(model, None)
            base.load()
            base.model.requires_grad_(False)
            torch.manual_seed(1)
            basis = learned.TrainableBasis(base.shapes, config, 6)
            for layer in basis.layers:
                torch.nn.init.normal_(layer.up, std=0.05)
            handles = basis.attach(base.model, base.linears)
            x, reference, words, pooled = (inputs[name].clone().to(base.dtype) for name in INPUTS)

            def loss() -> torch.Tensor:
                basis.route(torch.ones(1, 1, 6))
                given = batch.Batch(x, reference, None, batch.Text(words, pooled), ())
                velocity = base.velocity(x, torch.tensor([0.6]), given)
                return velocity.double().square().mean()

            with sys.modules[f"{pack}.nodes.host.differentiable"].differentiable(base.model, checkpointing):
                yield loss, list(basis.parameters())
            for handle in handles:
                handle.remove()

    return loss_of


STRIDE = 0.02
"""How far finite differences go, of all parameters together."""


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_finite_differences(load_flux, loss_of, checkpointing):
    """Through the host's blocks, which write over tensors that gradients need."""
    with loss_of(load_flux(), parity.load_parity(), checkpointing) as (loss, parameters):
        gradients = torch.autograd.grad(loss(), parameters)
        size = sum(g.double().square().sum() for g in gradients).sqrt().item()
        # Uphill, where the loss changes most beside float32's rounding.
        direction = [g / size for g in gradients]

        @torch.no_grad()
        def moved(by: float) -> float:
            torch._foreach_add_(parameters, direction, alpha=by)
            value = loss().item()
            torch._foreach_add_(parameters, direction, alpha=-by)
            return value

        numeric = (moved(STRIDE) - moved(-STRIDE)) / (2 * STRIDE)
    assert size == pytest.approx(numeric, rel=5e-4)


# Format → 1 − cosine with the gradients of the same model in bfloat16. Measured, rounded up.
FORMATS = {
    "float16": 1e-5,
    "fp8_e4m3fn": 0.01,
    "fp8 scaled": 0.003,
    "fp8 scaled, newer files": 0.003,
    "mxfp8": 0.003,
    "nvfp4": 0.03,
    "int8": 0.001,
    "GGUF Q8_0": 0.001,
    "GGUF Q4_0": 0.03,
}


@pytest.mark.parametrize("name", FORMATS)
def test_gradients_go_through_quantized_weights(in_format, loss_of, name):
    sizes = {"latent": (1, 16, 8, 8), "reference": (1, 16, 8, 8), "txt": (1, 7, 64), "pooled": (1, 768)}
    generator = torch.Generator().manual_seed(3)
    inputs = {key: torch.randn(size, generator=generator) for key, size in sizes.items()}

    def gradients(form: str) -> torch.Tensor:
        with loss_of(in_format(form), inputs, True) as (loss, parameters):
            return torch.cat([g.flatten() for g in torch.autograd.grad(loss(), parameters)]).double()

    found = gradients(name)
    assert 1 - torch.cosine_similarity(found, gradients("bfloat16"), dim=0).item() < FORMATS[name]


def test_a_model_with_a_mixture_around_its_forward_pass_is_refused(host, load_flux, mixture, train):
    """Checkpointed blocks run again in the backward pass, where the mixture would be gone."""
    with pytest.raises(host.core.LoRWebError, match="patches around its forward pass.*set the method to merge"):
        train(host.apply.apply_mixture(load_flux(), mixture, method="runtime"))
    assert train(host.apply.apply_mixture(load_flux(), mixture, method="merge"), steps=1)


@pytest.mark.parametrize("name", ["convrot_w4a4", "asym_w4a8_int8"])
def test_a_format_without_gradients_is_refused(host, in_format, train, name):
    model = in_format(name)
    with pytest.raises(host.core.LoRWebError, match=f"stored as {name}, .* no gradients"):
        train(model)


def test_cancel_keeps_the_state_and_the_same_settings_go_on(host, load_flux, train, monkeypatch, request):
    import comfy.model_management
    import comfy.utils

    whole = json.loads(train(load_flux(), steps=6, name="whole")[2])["loss"]["all"]
    model = load_flux()
    before = weights(model)
    update = comfy.utils.ProgressBar.update_absolute

    def cancelling(bar, value, total=None, preview=None):
        update(bar, value, total, preview)
        if bar.total == 6 and value == 2:
            comfy.model_management.interrupt_current_processing()

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", cancelling)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(model, steps=6)
    monkeypatch.undo()
    assert unchanged(model, before)
    assert hooks(model) == 0
    assert not comfy.model_management.in_training
    folder = host.models / "lorweb" / request.node.name
    assert not (folder / f"{request.node.name}.safetensors").exists()

    basis, _, report, _ = train(model, steps=6)
    losses = json.loads(report)["loss"]["all"]
    assert len((folder / "losses.csv").read_text().splitlines()) == 7
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(whole), rtol=1e-6, atol=0)
    # All done: nothing is trained again, and another run gets a folder of its own.
    again, _, report, _ = train(model, steps=6)
    assert json.loads(report)["loss"]["all"] == losses
    assert again.name == basis.name
    other, _, _, _ = train(model, steps=2, rank=1)
    assert other.name == f"{request.node.name}-2.safetensors"
    replaced, _, report, _ = train(model, steps=2, rank=1, seed=1, if_exists="replace")
    assert replaced.name == basis.name
    assert json.loads(report)["steps"] == 2


@pytest.mark.parametrize("mode", ["activation caa'", "paa'b"])
def test_other_query_modes(load_flux, train, mode):
    basis, _, report, _ = train(load_flux(), query_mode=mode, steps=2)
    assert basis.config.query_mode == mode.removeprefix("activation ")
    assert (json.loads(report)["usage"] is None) == mode.startswith("activation")


def test_a_model_in_8_bits_trains(load_flux, train):
    model = load_flux(torch.float8_e4m3fn)
    before = weights(model)
    train(model, steps=2)
    after = model.model.diffusion_model.state_dict()
    assert all(torch.equal(after[name].view(torch.uint8), before[name].view(torch.uint8)) for name in before)


def test_a_model_of_gguf_trains(in_format, train):
    model = in_format("GGUF Q4_0")
    # Its state_dict has stand-ins without values.
    stored = [values.as_subclass(torch.Tensor) for values in model.model.diffusion_model.parameters()]
    before = [values.clone() for values in stored]
    basis, *_ = train(model, {"txt": torch.randn(1, 7, 64), "pooled": torch.randn(1, 768)}, steps=2)
    assert all(map(torch.equal, stored, before))
    assert any(layer.B.any() for layer in basis.layers.values())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"folder": ""}, "folder is empty"),
        ({"folder": "nowhere/to/be/found"}, "no such folder"),
        ({"held_out": "nigt"}, "did you mean 'night'"),
        ({"query_mode": "other"}, "query_mode is 'other'"),
        ({"name": "../out"}, "does not stay"),
    ],
)
def test_bad_input_says_so(load_flux, train, given, message):
    with pytest.raises(ValueError, match=message):
        train(load_flux(), **given)


def test_a_folder_without_pairs_says_so(load_flux, train, pictures):
    (pictures / "empty").mkdir()
    with pytest.raises(ValueError, match="No pairs of pictures found"):
        train(load_flux(), folder=str(pictures / "empty"))


def test_an_error_leaves_the_model_as_it_was(host, load_flux, train, monkeypatch):
    model = load_flux()
    before = weights(model)
    module = sys.modules[host.core.__name__ + ".training.run_folder"]
    monkeypatch.setattr(module.RunFolder, "log", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(model)
    assert unchanged(model, before)
    assert hooks(model) == 0


def test_the_bar_has_the_samples_and_the_run_keeps_them(host, load_flux, train, monkeypatch, request):
    import comfy.utils

    updates = []
    monkeypatch.setattr(
        comfy.utils,
        "PROGRESS_BAR_HOOK",
        lambda value, total, preview, node_id=None: updates.append((value, total, preview)),
    )
    _, samples, _, _ = train(load_flux(), steps=3, sample_every=2)
    (first, _, (_, curve, _)), (step, total, (kind, image, side)) = [each for each in updates if each[2] is not None]
    assert (first, step, total, kind, side) == (1, 2, 3, "JPEG", 1024)
    assert image.width == curve.width
    assert image.height == curve.height + samples.shape[1]
    pixels = np.asarray(image)
    left = (image.width - samples.shape[2]) // 2
    assert pixels[: samples.shape[1], left : left + samples.shape[2]].std() > 10
    assert (pixels[: samples.shape[1], :left] == pixels[-1, -1]).all()
    assert updates[-1][:2] == (3, 3)
    kept = host.models / "lorweb" / request.node.name / "samples"
    assert [path.name for path in sorted(kept.iterdir())] == ["000000002.png", "000000003.png"]


def test_numbers_that_are_none_stop_it_and_keep_the_steps_before(host, load_flux, train, monkeypatch, request):
    base = sys.modules[host.core.__name__.removesuffix(".lorweb_core") + ".nodes.host.training_model"].HostBase
    velocity, calls = base.velocity, []

    def broken(*args):
        calls.append(args)
        return velocity(*args) * (float("nan") if len(calls) == 3 else 1.0)

    model = load_flux()
    before = weights(model)
    monkeypatch.setattr(base, "velocity", broken)
    with pytest.raises(host.core.LoRWebError, match="step 3 is not a finite number, on: "):
        train(model)
    assert unchanged(model, before)
    assert hooks(model) == 0
    monkeypatch.undo()
    assert len((host.models / "lorweb" / request.node.name / "losses.csv").read_text().splitlines()) == 3
    assert json.loads(train(model)[2])["steps"] == 4


def test_replace_never_touches_a_folder_that_is_not_the_runs_own(host, load_flux, train, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "samples").mkdir(parents=True)
    files = [
        elsewhere / name for name in ("samples/mine.png", "samples/000000009.png", "x_000000009.png", "losses.csv")
    ]
    for file in files:
        file.write_text("theirs")
    linked = host.models / "lorweb" / "linked"
    linked.mkdir()
    (linked / "run").symlink_to(elsewhere)
    try:
        # A folder of the pack itself that holds no run is as little the node's to replace.
        own = linked / "mine"
        own.mkdir()
        (own / "x_000000009.png").write_text("mine")
        for name, words in {
            f"/{elsewhere}": "does not stay in models/lorweb",
            "linked/run": "does not stay in models/lorweb",
            "linked/mine": "neither the state nor the losses of a training",
        }.items():
            with pytest.raises(host.core.LoRWebError, match=words):
                train(load_flux(), name=name, if_exists="replace")
        assert [file.read_text() for file in files] == ["theirs"] * 4
        assert (own / "x_000000009.png").read_text() == "mine"
    finally:
        (linked / "run").unlink()


def test_replace_keeps_pictures_and_files_that_the_run_did_not_write(host, load_flux, train, request):
    train(load_flux(), steps=2, sample_every=1, save_every=1)
    folder = host.models / "lorweb" / request.node.name
    kept = [folder / name for name in ("samples/mine.png", "mine_000000009.png", "mine_000000001.safetensors")]
    for file in kept:
        file.write_text("mine")
    stale = folder / f"{request.node.name}_000000001.safetensors"
    assert stale.exists()
    train(load_flux(), steps=1, seed=7, if_exists="replace")
    assert [file.read_text() for file in kept] == ["mine"] * 3
    assert not stale.exists()
    assert [path.name for path in sorted((folder / "samples").iterdir())] == ["000000001.png", "mine.png"]


def test_a_run_that_another_is_at_is_refused_in_words(host, load_flux, train, request):
    locks = sys.modules[host.core.__name__ + ".files.locks"]
    folder = host.models / "lorweb" / request.node.name
    folder.mkdir(parents=True)
    with locks.held(folder / "run.lock") as mine:
        assert mine
        for if_exists in ("number", "replace"):
            with pytest.raises(host.core.LoRWebError, match="another process is at"):
                train(load_flux(), if_exists=if_exists)
    train(load_flux(), steps=1)
    assert not (folder / "run.lock").exists()
