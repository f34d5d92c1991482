"""`python -m lorweb_core evaluate`, whole, on small stand-ins: its ways and judges, and how it goes on after a stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import standins
import torch
from PIL import Image
from safetensors.torch import save_file

pytest.importorskip("diffusers", reason="needs diffusers: pip install .[cli]")
pytest.importorskip("transformers", reason="needs transformers: pip install .[cli]")

import standins_diffusers
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from lorweb_core import encode_query, load_basis
from lorweb_core.__main__ import main
from lorweb_core.diffusers_backend.evaluated_models import KontextModels
from lorweb_core.diffusers_backend.pipeline import load_vision_encoder
from lorweb_core.export.lora_export import export_lora
from lorweb_core.files.image_file import read_image

pytestmark = pytest.mark.usefixtures("one_thread")

EMBEDDING = 24


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with pipeline/, encoder/, a basis for both, and data/ of two tasks of two pairs."""
    folder = tmp_path_factory.mktemp("world")
    standins_diffusers.make_pipeline(folder / "pipeline")
    standins.image_encoder(folder / "encoder", width=EMBEDDING)
    blocks = standins.block_linears(standins.HIDDEN, doubles=2, singles=2)
    save_file(standins.basis(blocks, n=4, rank=2, keys=8, query=EMBEDDING), folder / "basis.safetensors")
    network = '{linear: 2, network_kwargs: {query_mode: "ca\'-ca"}}'
    (folder / "basis.yaml").write_text(f"config: {{process: [{{network: {network}}}]}}")
    for task, after in (("night", (True, "house", "tree")), ("day", (False, "house", "tree"))):
        (folder / "data" / task).mkdir(parents=True)
        for number, shape in enumerate(after[1:]):
            for when, dark in (("before", not after[0]), ("after", after[0])):
                picture = standins.picture(dark, shape, (60, 90))
                Image.fromarray((picture * 255).byte().numpy()).save(folder / "data" / task / f"{number}_{when}.png")
    (folder / "data" / "night" / "caption.txt").write_text("make it night")
    return folder


def command(world: Path, out: Path, *more: str, **changed: object) -> list[str]:
    options = {
        "data": world / "data",
        "basis": world / "basis.safetensors",
        "model": world / "pipeline",
        "encoder": world / "encoder",
        "clip": world / "encoder",
        "out": out,
        "steps": 2,
        "fit_steps": 1,
        "limit": 1,
        "megapixels": 0.005,
        "text_tokens": 16,
        "device": "cpu",
        "judge": "stand-in",
        "lpips": "none",
    } | changed
    words = ["evaluate", *more]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return words


def table(out: Path) -> dict:
    return json.loads((out / "table.json").read_text())


def result(out: Path, way: str, task: str) -> torch.Tensor:
    """The b' of a task's one analogy, found by what the page shows under its name."""
    page = (out / "evaluation.html").read_text("utf-8").partition(f"<h3>{task}</h3>")[2]
    name = page.partition(f'href="pictures/{way}/')[2].partition('"')[0]
    return read_image(out / "pictures" / way / name)


def test_routed_is_what_analogy_makes_and_copy_is_b(world, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(command(world, out, ways=("routed", "fitted", "copy"), prompts="none", sampled="result")) == 0
    said = capsys.readouterr()
    assert "2 analogies of 2 tasks, made in 3 ways" in said.out and "Making b' (fitted): 100%" in said.err
    page = (out / "evaluation.html").read_text("utf-8")
    seed = page.partition("<h3>night</h3>")[2].partition("seed ")[2].partition("<")[0]
    key = page.partition("<h3>night</h3>")[2].partition("pictures/given/")[2].partition("-a.png")[0]
    analogy = ["analogy", "--prompt", "", "--seed", seed, "--steps", "2", "--megapixels", "0.005", "--device", "cpu"]
    for name in ("a", "a-prime", "b"):
        analogy += [f"--{name}", str(out / "pictures" / "given" / f"{key}-{name.replace('-', '_')}.png")]
    for name, path in {"basis": "basis.safetensors", "model": "pipeline", "encoder": "encoder"}.items():
        analogy += [f"--{name}", str(world / path)]
    made = tmp_path / "made.png"
    assert main([*analogy, "--text-tokens", "16", "--sampled", "result", "--out", str(made)]) == 0
    assert (result(out, "routed", "night") - read_image(made)).abs().max() <= 1.01 / 255
    b = read_image(out / "pictures" / "given" / f"{key}-b.png")
    assert torch.equal(result(out, "copy", "night"), b)
    assert (result(out, "routed", "night") - b).abs().max() > 0.05
    cells = table(out)["groups"][0]["cells"]
    assert cells["copy"]["clip_image"]["mean"] == 0 and cells["copy"]["preservation"]["mean"] == 10
    assert cells["copy"]["lpips"] is None and cells["copy"]["clip_text"] is None


def test_a_lora_file_does_what_the_mixture_that_it_is_does(world, tmp_path):
    pytest.importorskip("peft", reason="needs peft: pip install .[eval]")
    pair = [read_image(world / "data" / "night" / f"{number}.png") for number in ("0_before", "0_after", "1_before")]
    basis = load_basis(world / "basis.safetensors")
    encoder = load_vision_encoder(basis.config.encoder, world / "encoder")
    lora = tmp_path / "lora.safetensors"
    export_lora(basis.route(encode_query(encoder, *pair, "ca'-ca")), lora, "exact", dtype="float32")
    night = tmp_path / "data" / "night"
    night.mkdir(parents=True)
    for path in (world / "data" / "night").glob("*.png"):
        (night / path.name).write_bytes(path.read_bytes())
    out = tmp_path / "out"
    asked = {"data": tmp_path / "data", "ways": ("lora", "routed", "copy"), "lora": lora, "limit": 2}
    assert main(command(world, out, **asked)) == 0
    apart = {}
    for path in sorted((out / "pictures" / "given").glob("*-a.png")):
        key = path.name.removesuffix("-a.png")
        made = [read_image(out / "pictures" / way / f"{key}.png") for way in ("lora", "routed")]
        apart[torch.equal(read_image(path), pair[0])] = (made[0] - made[1]).abs().max()
    assert apart[True] <= 1.01 / 255 < 2 / 255 < apart[False]


def test_a_stopped_evaluation_goes_on_and_comes_to_the_same(world, tmp_path, monkeypatch, capsys):
    whole, out = tmp_path / "whole", tmp_path / "out"
    asked = {"ways": ("routed", "fitted", "copy")}
    assert main(command(world, whole, **asked)) == 0
    made = []
    sample = KontextModels.sample

    def interrupted(self, *given):
        made.append(given)
        if len(made) == 2:
            raise KeyboardInterrupt
        return sample(self, *given)

    monkeypatch.setattr(KontextModels, "sample", interrupted)
    assert main(command(world, out, **asked)) == 130
    assert "goes on" in capsys.readouterr().out
    (kept,) = (out / "pictures" / "routed").iterdir()
    before = kept.stat().st_mtime_ns
    assert main(command(world, out, **asked)) == 0
    assert len(made) == 5 and kept.stat().st_mtime_ns == before
    assert table(out) == table(whole)
    monkeypatch.setattr(KontextModels, "sample", None)
    assert main(command(world, out, **asked)) == 0
    assert table(out) == table(whole)


def refused(world: Path, out: Path, capsys, *words: str, more: tuple = (), **changed: object) -> None:
    assert main(command(world, out, *more, **changed)) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("lorweb: ")
    for word in words:
        assert word in said


def test_refused_before_the_model_is_loaded(world, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert main(command(world, out, ways=("copy",))) == 0
    monkeypatch.setattr("lorweb_core.diffusers_backend.pipeline.load_pipeline", None)
    refused(world, out, capsys, "another steps: 2, and now it is 3", ways=("copy",), steps=3)
    refused(world, out, capsys, "another ways", ways=("copy", "routed"))
    new = tmp_path / "new"
    refused(world, new, capsys, "--ways", ways=("magic",))
    refused(world, new, capsys, "NAME=GLOB", more=("--group", "night"))
    refused(world, new, capsys, "group x has no task", more=("--group", "x=y"))
    refused(world, new, capsys, "no such folder", data=tmp_path / "absent")
    refused(world, new, capsys, "LoRA", ways=("lora", "copy"))
    refused(world, new, capsys, "without a key", judge="https://me:pw@host")
    assert not new.exists()
    refused(world, tmp_path / "judged", capsys, "judge", "cannot be loaded", ways=("copy",), judge=tmp_path / "absent")
    broken = tmp_path / "data" / "night"
    broken.mkdir(parents=True)
    for name in ("0_before", "0_after", "1_before", "1_after"):
        (broken / f"{name}.png").write_bytes(b"no picture")
    refused(world, new, capsys, "_before.png", "is not an image", data=tmp_path / "data")


def vision_language_model(folder: Path) -> Path:
    """Write a small LLaVA of random weights: it answers with random letters."""
    vocabulary = ["<pad>", "<s>", "</s>", "<unk>", "<image>", *map(chr, range(32, 127))]
    tokens = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>"))
    tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokens, additional_special_tokens=["<image>"], **special
    )
    # From transformers 5 on the first of these names is the one that needs torchvision.
    images = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    each = "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}"
    transformers.LlavaProcessor(
        images(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=f"{{% for m in messages %}}{{% for c in m['content'] %}}{each}{{% endfor %}}{{% endfor %}}",
    ).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    text = transformers.LlamaConfig(
        **sizes, vocab_size=len(vocabulary), num_hidden_layers=1, num_key_value_heads=2, max_position_embeddings=4096
    )
    vision = transformers.CLIPVisionConfig(**sizes, num_hidden_layers=2, image_size=32, patch_size=16)
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=vocabulary.index("<image>")
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    return folder


def test_a_local_judge_that_talks_nonsense_is_counted_and_left_out(world, tmp_path):
    judge, out = vision_language_model(tmp_path / "judge"), tmp_path / "out"
    data = world / "data"
    assert main(command(world, out, data=data, ways=("copy",), judge=judge, clip="none")) == 0
    found = table(out)
    assert found["answers"]["rating"] == {"asked": 2, "nonsense": 2, "retried": 0}
    assert found["groups"][0]["cells"]["copy"]["accuracy"] is None
    page = (out / "evaluation.html").read_text("utf-8")
    assert "2 of 2 answers" in page and "stand-in" not in page
    kept = [json.loads(line) for line in (out / "measures.jsonl").read_text().splitlines()]
    assert [record[0] for record in kept] == ["measures"] * 2 + ["rating"] * 2
    assert all(record[3]["answers"][0]["said"] for record in kept[2:])
