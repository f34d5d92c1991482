from __future__ import annotations

import pytest
import torch

from lorweb_core.score import Score
from small_world import demonstrations_study, fit_study, install, origin_study, score_study, study, study_report
from small_world.models import stored
from small_world.world.benchmark import open_benchmark
from small_world.world.drawn_analogies import draw_analogies
from small_world.world.drawn_grids import encode_grids, quarter
from small_world.world.plain import edits
from small_world.world.plain.edits import draw_pairs
from small_world.world.plain.scenes import SIDE, draw_scenes, render
from small_world.worlds import PLAIN


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def autoencoder():
    return stored.load_autoencoder(PLAIN)


def test_scenes_come_from_their_seed():
    one, other = (render(draw_scenes(8, generator(), edited=0.5)) for _ in range(2))
    assert torch.equal(one, other)
    assert one.shape == (8, 3, SIDE, SIDE)
    assert one.min() >= 0 and one.max() <= 1


@pytest.mark.parametrize("edit", [edit for group in edits.all_edits() for edit in group[::7]], ids="-".join)
def test_an_edit_shows_in_every_scene_that_is_drawn_for_it(edit):
    scenes = edits.scenes_for(edit, 16, generator())
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


def test_a_picture_is_judged_by_what_was_wanted_of_it():
    b = torch.full((2, 3, 4, 4), 0.25)
    b_prime, half, beside = b.clone(), b.clone(), b.clone()
    b_prime[:, :, :2] += 0.5
    half[:, :, :2] += 0.25
    beside[:, :, 2:] += 0.5
    assert origin_study.judge(b_prime, b, b_prime) == (0.0, 1.0, 0.0)
    assert origin_study.judge(half, b, b_prime) == (0.03125, 0.5, 0.0)
    assert origin_study.judge(beside, b, b_prime) == (0.25, 0.0, 0.25)


def test_the_autoencoder_is_a_taesd_as_diffusers_has_it(autoencoder, tmp_path):
    from diffusers import AutoencoderTiny

    from small_world.models.diffusers_folder import _diffusers_taesd

    theirs = AutoencoderTiny(latent_channels=16)
    theirs.load_state_dict(_diffusers_taesd(install.taesd(PLAIN)))
    pictures = render(draw_scenes(4, generator(), edited=0.5))
    with torch.no_grad():
        latents = theirs.encode(pictures * 2 - 1).latents
        decoded = theirs.decode(latents).sample / 2 + 0.5
        assert torch.allclose(latents, autoencoder.encode(pictures), atol=1e-5)
        assert torch.allclose(decoded, autoencoder.decode(latents), atol=1e-5)
    assert (decoded - pictures).square().mean() < 0.005


def test_the_shipped_basis_makes_pairs_of_edits_that_it_has_never_seen(autoencoder):
    _, new_pairs, _ = edits.split()
    analogies = draw_analogies(PLAIN, new_pairs[::2], 1, 5, autoencoder.encode)
    benchmark = open_benchmark(PLAIN)
    solved = study.evaluate(benchmark, study.SHIPPED[PLAIN], study.shipped(benchmark), analogies)
    assert solved["error"] < 0.5 * solved["copying"]
    assert solved["follows"] > 0.3


def test_what_is_solved_is_never_what_was_trained_on():
    seeds = [split.seed for split in PLAIN.splits.values()]
    assert len(set(seeds)) == len(seeds)
    trained, seen = (
        draw_pairs(PLAIN.splits[name].edits[:3], 4, generator(PLAIN.splits[name].seed)) for name in ("trained", "seen")
    )
    assert not any(torch.equal(one, other) for one in trained for other in seen)


def test_grids_hold_their_pictures_and_are_encoded_whole(autoencoder):
    shown, results = draw_pairs([("red",), ("blur", "sun")], 6, generator()).unflatten(0, (-1, 2)).unbind(1)
    grids = encode_grids(autoencoder.encode, shown, results)
    assert grids.target.shape == grids.reference.shape == (6, 16, SIDE // 4, SIDE // 4)
    decoded = [autoencoder.decode(latents.float()) for latents in grids]
    for grid, last in zip(decoded, results.float().div(255).flip(1).unbind(1), strict=True):
        assert (quarter(grid) - last).square().mean() < 0.01
        assert (grid[..., :SIDE, SIDE:] - shown[:, 1] / 255).square().mean() < 0.01
    # Over the seams: b' is seen in what b, beside it, is encoded as.
    beside = (grids.target - grids.reference)[..., SIDE // 8 :, : SIDE // 8]
    assert beside[..., -1].abs().max() > 0.1


def test_the_pipeline_is_told_nothing_whatever_the_prompt(tmp_path):
    from diffusers import FluxKontextPipeline

    from small_world.models.diffusers_folder import write_pipeline

    write_pipeline(tmp_path, stored.load_transformer(PLAIN), install.taesd(PLAIN), silent=True)
    pipeline = FluxKontextPipeline.from_pretrained(tmp_path)
    tokens, pooled, _ = pipeline.encode_prompt("make it red", None, max_sequence_length=77)
    assert tokens.shape == (1, 77, 768)
    assert not tokens.any() and not pooled.any()


def test_the_page_has_the_table_of_what_the_study_found():
    assert study_report.table(study_report.by_variant(study.read())) in study_report.PAGE.read_text(encoding="utf-8")


def test_the_page_on_fitting_has_the_table_of_what_was_measured():
    assert fit_study.table(study.read(fit_study.RESULTS)) in fit_study.PAGE.read_text(encoding="utf-8")


def test_the_study_of_scores_averages_the_errors_of_what_is_picked():
    errors = (torch.tensor([0.1, 0.3, 0.2]), torch.tensor([0.6, 0.5, 0.4]))
    alone = ([Score(0, None, d) for d in (3, 1, 2)], [Score(0, None, d) for d in (1, 2, 3)])
    told = ([Score(0, None, d) for d in (1, 3, 2)], [Score(0, None, d) for d in (3, 2, 1)])
    picked = score_study.picked([score_study.Results(*each) for each in zip(errors, told, alone, strict=True)])
    wanted = {"any": 0.35, "the best by truth": 0.25, "expected, with the model": 0.25, "expected, without": 0.45}
    assert {name: picked[name] for name in wanted} == pytest.approx(wanted)


def test_weighed_by_agreement_a_pair_that_disagrees_hardly_counts():
    alike = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    weighed = demonstrations_study.by_agreement(alike[None, :, None])
    assert weighed.shape == (1, 1, 2)
    assert weighed[0, 0].tolist() == pytest.approx([(3 - 0.001) / 3.001, 0], abs=1e-6)
