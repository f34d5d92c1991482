"""Both configurations of the small world: their files, and the trainings that make them."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from lorweb_core.encoder import ENCODERS
from lorweb_core.errors import LoRWebError
from lorweb_core.files.safetensors_writer import write_all
from small_world import __main__ as commands
from small_world.models import contrastive_encoder, one_cycle, stored, trained
from small_world.models.one_cycle import Kept, OneCycle
from small_world.worlds import FAMILIES, PLAIN, SHIPPED, WORLDS, World, file_name


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    """A world of one training step, whose models lie in a folder of its own."""
    monkeypatch.setattr(trained, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(World, "folder", tmp_path / "models")
    return replace(FAMILIES, autoencoder_steps=1, base_steps=1, base_batch=2)


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_a_world_draws_what_it_says_and_names_its_edits(world):
    edits = world.splits["new_pairs"].edits[:2]
    pairs = world.draw_pairs(edits, 2, generator())
    assert pairs.dtype == torch.uint8 and pairs.shape == (4, 2, 3, 64, 64)
    assert world.draw_pictures(8, generator()).shape == (8, 3, 64, 64)
    words = world.words_for(edits)
    assert words.shape == (2, 2, 768) and words.flatten(2).any(2).all()
    assert len({split.seed for split in world.splits.values()}) == len(world.splits)
    assert set(world.splits) - set(world.measured) == {"trained"}
    assert world.encoder_id in ENCODERS
    assert ENCODERS[world.encoder_id].source.startswith(f"small_world/models/{world.name}/{world.encoder_name} ")


def test_names_of_edits_in_names_of_files_tell_them_apart():
    for world in WORLDS.values():
        edits = {edit for split in world.splits.values() for edit in split.edits}
        names = {file_name(edit) for edit in edits}
        assert len(names) == len(edits)
        assert not any(set(name) & set(' /\\:*?"<>|') or name.endswith(".") for name in names)


def test_a_training_that_was_interrupted_comes_to_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(one_cycle, "_EACH", 2)
    kept = Kept(tmp_path / "tiny.state", "tiny, 5 steps")

    def trained_until(last: int, kept: Kept | None) -> dict:
        torch.manual_seed(0)
        model, random = nn.Linear(3, 2), generator()
        for step in (loop := OneCycle("tiny", model, 5, random, kept)):
            loop.step(model(torch.randn(4, 3, generator=random)).square().mean())
            if step == last:
                break
        return model.state_dict()

    whole = trained_until(4, None)
    trained_until(3, kept)
    assert kept.path.exists()
    resumed = trained_until(5, kept)
    assert not kept.path.exists()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_training_of_other_settings_is_not_gone_on_from(tmp_path, monkeypatch):
    monkeypatch.setattr(one_cycle, "_EACH", 1)
    model = nn.Linear(1, 1)
    for step in (loop := OneCycle("tiny", model, 3, generator(), Kept(tmp_path / "tiny.state", "3 steps"))):
        loop.step(model(torch.ones(1, 1)).sum())
        if step == 1:
            break
    with pytest.raises(LoRWebError, match=r"tiny\.state .*'3 steps', now '4 steps'.* Delete it to start over"):
        OneCycle("tiny", model, 4, generator(), Kept(tmp_path / "tiny.state", "4 steps"))


def test_models_are_stored_with_the_name_of_their_world_and_no_other_loads_them(world):
    trained.train_autoencoder(world)
    stored.load_autoencoder(world)
    with pytest.raises(
        LoRWebError,
        match=r"autoencoder\.safetensors is a model of the world 'families'; expected one of 'plain'\. "
        r"`python -m small_world autoencoder --world plain`",
    ):
        stored.load_autoencoder(PLAIN)


def test_an_image_encoder_is_stored_with_the_name_of_its_world(world):
    tower = contrastive_encoder.untrained(contrastive_encoder.SPEC)
    stored.save_encoder(world, tower)
    pictures = [torch.rand(64, 64, 3, generator=generator())]
    assert stored.load_vision(world).embed(pictures).shape == (1, 1, 96)
    with pytest.raises(LoRWebError, match="`python -m small_world encoder --world plain`"):
        stored.load_vision(replace(PLAIN, encoder_name=world.encoder_name))


def test_a_model_that_names_no_world_or_is_not_there_says_what_makes_it(world):
    with pytest.raises(LoRWebError, match=r"base\.safetensors is not there\. `python -m small_world base --world fam"):
        stored.load_transformer(world)
    world.folder.mkdir()
    write_all(world.base, {"x": torch.zeros(1)}, {"format": "pt"})
    with pytest.raises(LoRWebError, match="is a model of no world that it names; expected one of 'families'"):
        stored.load_transformer(world)


def test_the_base_is_taught_and_stored_and_its_state_depends_on_the_autoencoder(world):
    trained.train_autoencoder(world)
    words = torch.ones(4, 2, 768)
    trained.train_base(replace(world, draw_lessons=lambda random: (world.draw_pairs([("sun 0",)], 4, random), words)))
    assert stored.load_transformer(world).config.num_attention_heads == world.size.heads
    before = trained.kept(world, "base", after=(world.autoencoder,))
    stored.save(world, {"x": torch.ones(1)}, world.autoencoder)
    assert trained.kept(world, "base", after=(world.autoencoder,)).settings != before.settings


def test_a_command_says_in_one_line_what_is_wrong(monkeypatch):
    def refuse(_):
        raise LoRWebError("Something is missing. Make it.")

    monkeypatch.setitem(commands.COMMANDS, "measure", commands.Command("", refuse))
    monkeypatch.setattr(sys, "argv", ["small_world", "measure", "--world", "plain"])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == "Something is missing. Make it."


def test_the_models_that_ship_are_small():
    assert sum(path.stat().st_size for path in SHIPPED.folder.rglob("*") if path.is_file()) < 16e6
