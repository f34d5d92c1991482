from __future__ import annotations

import pytest
import torch

from small_world import edits, install, models, study
from small_world.analogies import PoolSource, solve
from small_world.pool import make_pool, scenes_for
from small_world.scenes import SIDE, draw_scenes, render

SHIPPED_BYTES = 12e6


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.fixture(scope="module")
def autoencoder():
    return models.load_autoencoder()


def test_scenes_come_from_their_seed():
    one, other = (render(draw_scenes(8, generator(), edited=0.5)) for _ in range(2))
    assert torch.equal(one, other)
    assert one.shape == (8, 3, SIDE, SIDE)
    assert one.min() >= 0 and one.max() <= 1


@pytest.mark.parametrize("edit", [edit for group in edits.all_edits() for edit in group[::7]], ids="-".join)
def test_an_edit_shows_in_every_scene_that_is_drawn_for_it(edit):
    scenes = scenes_for(edit, 16, generator())
    change = (render(edits.edit_scenes(scenes, edit)) - render(scenes)).abs().amax((1, 2, 3))
    # A tilted circle without texture or face looks as before; all else shows.
    unseen = (change < 0.05).sum()
    assert unseen == 0 or (edit == ("tilt",) and unseen < 8)


def test_what_is_held_out_is_held_out():
    seen, new_pairs, new_edits = edits.split()
    assert not set(seen) & set(new_pairs)
    assert not {part for edit in seen + new_pairs for part in edit} & set(edits.NEW)
    assert {edit[0] for edit in new_edits} == set(edits.NEW)
    # Each part of a new pair is known by itself: only the two together are new.
    assert {(part,) for pair in new_pairs for part in pair} <= set(seen)
    assert not set(new_pairs) & set(edits.taught_by_words())


def test_the_files_that_ship_are_small():
    assert sum(path.stat().st_size for path in models.FOLDER.rglob("*") if path.is_file()) < SHIPPED_BYTES


def test_the_autoencoder_is_a_taesd_as_diffusers_has_it(autoencoder, tmp_path):
    from diffusers import AutoencoderTiny

    from small_world.pipeline import _diffusers_taesd

    theirs = AutoencoderTiny(latent_channels=16)
    theirs.load_state_dict(_diffusers_taesd(install.taesd()))
    pictures = render(draw_scenes(4, generator(), edited=0.5))
    with torch.no_grad():
        latents = theirs.encode(pictures * 2 - 1).latents
        decoded = theirs.decode(latents).sample / 2 + 0.5
        assert torch.allclose(latents, autoencoder.encode(pictures), atol=1e-5)
        assert torch.allclose(decoded, autoencoder.decode(latents), atol=1e-5)
    assert (decoded - pictures).square().mean() < 0.005


def test_the_shipped_basis_makes_pairs_of_edits_that_it_has_never_seen(autoencoder):
    world, basis = study.shipped((2, 8, 2))
    # Grids encoded whole, as at inference.
    source = PoolSource(world.new_pairs, study.SHIPPED.mode, 26, 0, True, world.embed, world.encode)
    solved = solve(source, basis, world.base, count=26)
    assert solved.error.mean() < 0.5 * solved.copying.mean()
    assert solved.follows.mean() > 0.3


def test_a_pool_holds_what_its_pictures_show(autoencoder):
    pool = make_pool([("red",), ("blur", "sun")], 3, 5, autoencoder)
    assert pool.pictures.shape == (2, 2, 3, 3, SIDE, SIDE)
    with torch.no_grad():
        again = autoencoder.encode(pool.pictures[1, 1, 2:].float() / 255)
    assert torch.allclose(pool.latents[1, 1, 2:], again, atol=1e-5)


def test_the_pipeline_is_told_nothing_whatever_the_prompt(tmp_path):
    from diffusers import FluxKontextPipeline

    from small_world.pipeline import write_pipeline

    write_pipeline(tmp_path, models.load_transformer(), install.taesd(), silent=True)
    pipeline = FluxKontextPipeline.from_pretrained(tmp_path)
    tokens, pooled, _ = pipeline.encode_prompt("make it red", None, max_sequence_length=77)
    assert tokens.shape == (1, 77, 768)
    assert not tokens.any() and not pooled.any()
