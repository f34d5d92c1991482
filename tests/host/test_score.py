"""Analogy Score and Picture Strip as the host calls them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import parity
import pytest
import standins
import torch
from host_models import hooks, unchanged, weights
from safetensors.torch import load_file


@pytest.fixture
def clip_folder(host):
    """A small CLIP where the nodes look for the basis's encoder."""
    folder = host.models / "clip_vision" / "clip-vit-large-patch14"
    shutil.rmtree(folder, ignore_errors=True)
    host.encoder._encoder_from_folder.cache_clear()
    yield standins.image_encoder(folder, width=24)
    host.encoder._encoder_from_folder.cache_clear()
    shutil.rmtree(folder)


@pytest.fixture
def clip_vision(clip_folder):
    """The same tower as the host's CLIP_VISION, which keeps it in float16."""
    import comfy.clip_vision

    tower = comfy.clip_vision.ClipVisionModel(str(clip_folder / "config.json"))
    tower.load_sd(load_file(clip_folder / "model.safetensors"))
    return tower


SIZE = (96, 128)
MODEL = ("model", "vae", "positive", "mixture")
"""Inputs that what the model expects takes."""


def module(host, name: str):
    return sys.modules[f"{host.core.__name__.removesuffix('.lorweb_core')}.{name}"]


def night_above(shape: str) -> torch.Tensor:
    """Night falls on the upper half of the scene, (1, H, W, 3)."""
    day, night = (standins.picture(at, shape, size=SIZE)[None] for at in (False, True))
    return torch.cat([night[:, :48], day[:, 48:]], 1)


def analogy() -> dict[str, list[torch.Tensor]]:
    """As the host gives them: lists of batches."""
    house, tree = (standins.picture(False, shape, size=SIZE)[None] for shape in ("house", "tree"))
    return {"a": [house], "a_prime": [night_above("house")], "b": [tree]}


def results() -> list[torch.Tensor]:
    """The picture as it was, as the example has it, and two others: by night all over, and another one."""
    day, night = (standins.picture(at, "tree", size=SIZE)[None] for at in (False, True))
    return [day, night_above("tree"), night, night_above("house")]


def embedding(folder: Path, image: torch.Tensor) -> torch.Tensor:
    """transformers' own model on transformers' own preprocessing."""
    import transformers

    levels = (image[0] * 255).round().byte().numpy()
    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    model = transformers.CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    return model(**kind()([levels], return_tensors="pt")).image_embeds[0]


def test_the_sockets_others_lean_on(host):
    for node_id, name, inputs, optional, outputs in (
        (
            "LoRWeBAnalogyScore",
            "Analogy Score",
            ["basis", "analogy", "a", "a_prime", "b", "b_prime", "clip_vision", "rank_by", "theme", *MODEL],
            {"analogy", "a", "a_prime", "b", "clip_vision", "rank_by", "theme", *MODEL},
            ["best", "follows", "kept", "image", "json"],
        ),
        (
            "LoRWeBPictureStrip",
            "Picture Strip",
            ["images", "captions", "height", "theme"],
            {"captions", "height", "theme"},
            ["image"],
        ),
    ):
        schema = host.node(node_id).GET_SCHEMA()
        assert (schema.display_name, schema.is_input_list) == (name, True)
        assert [i.id for i in schema.inputs] == inputs
        assert {i.id for i in schema.inputs if i.optional} == optional
        assert [o.id for o in schema.outputs] == outputs
        assert all(socket.tooltip for socket in (*schema.inputs, *schema.outputs))


def test_scores_are_those_of_the_bases_own_encoder(host, basis, clip_folder):
    pictures, candidates = analogy(), results()
    output = host.node("LoRWeBAnalogyScore").execute([basis()], **pictures, b_prime=candidates)
    best, best_follows, best_kept, image, scores_json = output.result
    a, a_prime, b = (embedding(clip_folder, batch[0]) for batch in pictures.values())
    expected = [torch.cosine_similarity(a_prime - a, embedding(clip_folder, x) - b, 0).item() for x in candidates[1:]]
    scores_json = json.loads(scores_json)
    assert scores_json["scores"][0]["follows"] == 0
    kept = [1 - (x - candidates[0])[:, 48:].abs().mean().item() for x in candidates]
    assert [s["kept"] for s in scores_json["scores"]] == pytest.approx(kept, abs=1e-6)
    assert [s["follows"] for s in scores_json["scores"][1:]] == pytest.approx(expected, abs=1e-4)
    first = scores_json["ranking"][0]
    assert torch.equal(best, candidates[first])
    assert (best_follows, best_kept) == (scores_json["scores"][first]["follows"], scores_json["scores"][first]["kept"])
    assert image.shape[0] == 1
    assert image.shape[-1] == 3
    assert len(output.ui.as_dict()["images"]) == 1


def test_an_analogy_is_scored_as_its_pictures_are(host, basis, clip_folder):
    node, pictures = host.node("LoRWeBAnalogyScore"), analogy()
    (whole,) = host.node("LoRWeBAnalogy").execute(*(batch for (batch,) in pictures.values())).result
    one = node.execute([basis()], **pictures, b_prime=results()).result[4]
    assert node.execute([basis()], b_prime=results(), analogy=[whole]).result[4] == one
    with pytest.raises(host.core.LoRWebError, match="Analogy Score has an analogy and also b"):
        node.execute([basis()], b=pictures["b"], b_prime=results(), analogy=[whole])


def test_the_nearest_to_the_results_mean_ranks_first_where_no_model_is_linked(host, basis, clip_folder):
    candidates = results()
    output = host.node("LoRWeBAnalogyScore").execute([basis()], **analogy(), b_prime=candidates, rank_by=["expected"])
    middle = sum(candidates) / len(candidates)
    expected = [(x - middle).square().mean().item() for x in candidates]
    told = json.loads(output.result[4])
    assert [s["distance"] for s in told["scores"]] == pytest.approx(expected, abs=1e-6)
    assert told["ranking"] == sorted(range(len(expected)), key=expected.__getitem__)


def test_what_the_model_expects_is_its_first_guess_with_the_mixture_merged(
    host, basis, clip_folder, load_flux, vae, mixture
):
    node, candidates, pictures = host.node("LoRWeBAnalogyScore"), results(), analogy()
    tensors, model = parity.load_parity(), load_flux()
    text, pooled = tensors["txt"].float(), tensors["pooled"].float()
    given = [[model], [vae], [[[text, {"pooled_output": pooled, "guidance": 2.5}]]], [mixture]]
    (whole,) = host.node("LoRWeBAnalogy").execute(*(batch for (batch,) in pictures.values()), megapixels=0.02).result
    before = weights(model)
    output = node.execute([basis()], b_prime=candidates, analogy=[whole], **dict(zip(MODEL, given)))
    assert unchanged(model, before)
    assert hooks(model) == 0

    merged = host.node("LoRWeBMixedLoRAApply").execute(model, mixture, method="merge").result[0]
    import comfy.model_management

    comfy.model_management.load_models_gpu([merged])
    height, width = 48, 80  # 0.02 megapixels for four cells in b's shape, in whole tokens: 62.7 and 83.6 pixels
    b = torch.nn.functional.interpolate(
        pictures["b"][0].movedim(-1, 1), (height, width), mode="bicubic", antialias=True
    ).clamp(0, 1)
    reference = merged.model.process_latent_in(vae.encode(b.tile(1, 1, 2, 2).movedim(1, -1)))
    rows, columns = reference.shape[-2] // 2, reference.shape[-1] // 2
    noise = torch.randn(
        1, reference.shape[1], rows, columns, generator=module(host, "lorweb_core.training.seeds").generator(0)
    )

    def place(arguments: dict) -> dict:
        """Move the target's tokens to the last cell; the host's come first among those of pictures."""
        ids = arguments["img_ids"]
        count = rows * columns // 4
        ids[:, :count, 1] += rows // 2
        ids[:, :count, 2] += columns // 2
        return arguments

    with torch.no_grad():
        velocity = merged.model.diffusion_model(
            noise,
            torch.ones(1),
            text,
            pooled,
            torch.tensor([2.5]),
            ref_latents=[reference],
            transformer_options={"patches": {"post_input": [place]}},
        )
    first = vae.decode(merged.model.process_latent_out(noise - velocity)).float().clamp(0, 1)
    first = torch.nn.functional.interpolate(first.movedim(-1, 1), SIZE, mode="bicubic", antialias=True).clamp(0, 1)
    middle = (sum(candidates) / len(candidates) + first.movedim(1, -1)) / 2
    expected = [(x - middle).square().mean().item() for x in candidates]
    told = json.loads(output.result[4])
    assert [s["distance"] for s in told["scores"]] == pytest.approx(expected, abs=1e-4)


def test_a_part_of_what_the_model_needs_is_named(host, basis, clip_folder, mixture):
    with pytest.raises(host.core.LoRWebError, match="has no model and no vae and no positive.*link all four, or none"):
        host.node("LoRWeBAnalogyScore").execute([basis()], **analogy(), b_prime=results(), mixture=[mixture])


def test_a_list_and_a_batch_are_the_same_and_the_hosts_tower_agrees(host, basis, clip_folder, clip_vision):
    node, pictures, candidates = host.node("LoRWeBAnalogyScore"), analogy(), results()
    listed, batched, stock = (
        json.loads(node.execute([basis()], **pictures, b_prime=b_prime, clip_vision=[tower], rank_by=["follows"])[4])
        for b_prime, tower in (
            (candidates, None),
            ([torch.cat(candidates)], None),
            ([candidates[0], torch.cat(candidates[1:])], clip_vision),
        )
    )
    assert listed == batched
    assert stock["ranking"] == listed["ranking"]
    for one, other in zip(listed["scores"], stock["scores"]):
        assert one["follows"] == pytest.approx(other["follows"], abs=0.02)
        assert one["kept"] == other["kept"]


def test_where_the_pair_changes_everything_kept_is_null_and_below_every_score(host, basis, clip_folder):
    pictures = analogy()
    pictures["a_prime"] = [(pictures["a"][0] + 0.5) % 1]
    output = host.node("LoRWeBAnalogyScore").execute([basis()], **pictures, b_prime=results(), rank_by=["both"])
    assert output.result[2] == -1
    assert all(s["kept"] is None and s["total"] == s["follows"] for s in json.loads(output.result[4])["scores"])


def test_a_basis_without_an_encoder_asks_for_one(host, basis, clip_vision):
    routed = basis(None, external_query=False, query_mode="caa'b")
    node, pictures = host.node("LoRWeBAnalogyScore"), analogy()
    with pytest.raises(host.core.LoRWebError, match=r"basisNone\.safetensors routes.*Connect Load CLIP Vision"):
        node.execute([routed], **pictures, b_prime=results())
    output = node.execute([routed], **pictures, b_prime=results(), clip_vision=[clip_vision])
    assert len(json.loads(output.result[4])["scores"]) == 4


def test_an_encoder_that_is_not_there_or_another_one_is_named(host, basis, clip_vision, clip_folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    node, pictures = host.node("LoRWeBAnalogyScore"), analogy()
    with pytest.raises(host.core.LoRWebError, match="is a clip.*google/siglip2"):
        node.execute(
            [basis(external_query_model="google/siglip2-base-patch16-224")],
            **pictures,
            b_prime=results(),
            clip_vision=[clip_vision],
        )
    (clip_folder / "config.json").unlink()
    with pytest.raises(host.core.LoRWebError, match=r"clip-vit-large-patch14 is not on this.*Load CLIP Vision"):
        node.execute([basis()], **pictures, b_prime=results())


def test_images_that_cannot_be_scored_are_named(host, basis, clip_folder):
    node, pictures = host.node("LoRWeBAnalogyScore"), analogy()
    with pytest.raises(host.core.LoRWebError, match="b_prime is 128×8 pixels"):
        node.execute([basis()], **pictures, b_prime=[torch.rand(1, 8, 128, 3)])
    with pytest.raises(host.core.LoRWebError, match="2 b's"):
        node.execute([basis()], **pictures | {"b": [torch.rand(2, 64, 64, 3)]}, b_prime=results())


def test_a_strip_of_lists_and_batches_with_captions_from_either(host):
    node, pictures = host.node("LoRWeBPictureStrip"), results()
    (bare,) = node.execute(pictures).result
    (batched,) = node.execute([torch.cat(pictures)], captions=[""]).result
    assert torch.equal(bare, batched)
    output = node.execute(pictures, captions=["day\n\nnight ☾"], height=[64], theme=["light"])
    (listed,) = node.execute(pictures, captions=["day", "", "night\n☾"], height=[64], theme=["light"]).result
    assert torch.equal(output.result[0], listed)
    assert listed.shape[1] < bare.shape[1]
    assert len(output.ui.as_dict()["images"]) == 1
