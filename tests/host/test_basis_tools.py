"""Merge Bases and Prune Basis, as the host sees and calls them, and in a graph that it executes."""

from __future__ import annotations

import json
import sys

import pytest
import standins
import torch
from safetensors.torch import load_file, save_file

BLOCKS = standins.block_linears(128, 1, 1)


@pytest.fixture
def bases(host):
    """Two in models/lorweb, loaded by the loader."""
    folder = host.models / "lorweb"
    for seed, n in enumerate((4, 3)):
        weights = standins.basis(BLOCKS, n=n, rank=2 + seed, keys=8, query=72, seed=seed)
        save_file(weights, folder / f"small-{seed}.safetensors")
    loader = host.node("LoRWeBBasisLoader")
    yield [loader.execute(f"small-{seed}.safetensors", "auto").result[0] for seed in range(2)]
    for kind in ("lorweb", "lorweb_mixtures"):
        for file in sorted((host.models / kind).rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()


@pytest.fixture
def prune(host):
    """Prune Basis as the host calls it: every input a list."""

    def prune(basis, mixtures=None, **widgets):
        schema = host.node("LoRWeBPruneBasis").GET_SCHEMA()
        given = {i.id: i.default for i in schema.inputs if getattr(i, "default", None) is not None} | widgets
        lists = {key: [value] for key, value in given.items()} | ({"mixtures": mixtures} if mixtures else {})
        return host.node("LoRWeBPruneBasis").execute(basis=[basis], **lists)

    return prune


def only(mixture, *used: int):
    table = torch.zeros_like(mixture.table)
    table[..., list(used)] = 1.0
    return mixture.with_table(table)


def test_a_merged_basis_is_listed_with_its_config_and_routes_as_both(host, bases):
    merge = host.node("LoRWeBMergeBases")
    names = []
    for _ in range(2):
        (merged,) = merge.execute(*bases, name="sub/both").result
        names.append(merged.name)
    assert names == ["both.safetensors", "both-2.safetensors"]
    options = {i.id: i.options for i in host.node("LoRWeBBasisLoader").define_schema().inputs}
    assert {"both.safetensors", "both-2.safetensors"} <= {name[4:] for name in options["basis_name"]}
    assert "both.yaml" in {name[4:] for name in options["config_name"]}
    query = torch.randn(72)
    expected = torch.cat([basis.route(query).table for basis in bases], -1)
    (listed,) = [name for name in options["basis_name"] if name.endswith("both.safetensors")]
    for basis in (merged, host.node("LoRWeBBasisLoader").execute(listed, "auto").result[0]):
        torch.testing.assert_close(basis.route(query).table, expected, rtol=0, atol=1e-6)


def test_a_list_of_mixtures_prunes_the_basis_and_comes_over(bases, prune):
    basis = bases[0]
    mixtures = [only(basis.route(torch.randn(72)), used) for used in (0, 3)]
    output = prune(basis, mixtures, name="less")
    smaller, report, image, carried = output.result
    report = json.loads(report)
    assert report["kept"].keys() == {"0", "3"}
    assert report["dropped"] == {"1": 0.0, "2": 0.0}
    assert (report["file"], report["mixtures"], report["skipped"]) == ("less.safetensors", 2, [])
    assert smaller.config.loras_num == 2
    for old, new in zip(mixtures, carried):
        for layer in basis.layers:
            torch.testing.assert_close(new.delta(layer), old.delta(layer))
    assert image.ndim == 4
    assert output.ui.as_dict()["images"]


def test_saved_mixtures_count_and_those_of_another_basis_do_not(host, bases, prune, caplog):
    save, node = host.node("LoRWeBSaveMixture"), host.node("LoRWeBPruneBasis")
    first, second = bases
    seen = [node.fingerprint_inputs(saved_mixtures=["kept"])]
    save.execute(only(first.route(torch.randn(72)), 1), "kept/one")
    seen.append(node.fingerprint_inputs(saved_mixtures=["kept"]))
    save.execute(only(first.route(torch.randn(72)), 2), "kept/two")
    save.execute(only(second.route(torch.randn(72)), 0), "kept/foreign")
    save.execute(only(first.route(torch.randn(72)), 3), "other")
    seen.append(node.fingerprint_inputs(saved_mixtures=["kept"]))
    assert [len(files) for files in seen] == [0, 1, 3]
    _, report, _, carried = prune(first, saved_mixtures="kept").result
    assert json.loads(report)["kept"].keys() == {"1", "2"}
    assert json.loads(report)["skipped"] == ["foreign.safetensors"]
    assert "foreign.safetensors" in caplog.text
    assert len(carried) == 2
    _, report, *_ = prune(first, [only(first.route(torch.randn(72)), 0)], saved_mixtures="other.safetensors").result
    assert json.loads(report)["kept"].keys() == {"0", "3"}
    _, report, *_ = prune(first, saved_mixtures=".").result
    assert json.loads(report)["kept"].keys() == {"1", "2", "3"}


@pytest.mark.parametrize(
    ("widgets", "words"),
    [
        ({}, "no mixture to tell"),
        ({"saved_mixtures": "absent"}, "saved_mixtures is 'absent', but no saved mixture"),
        ({"saved_mixtures": "../lorweb"}, "saved_mixtures is '../lorweb', but no saved mixture"),
        ({"saved_mixtures": "/"}, "saved_mixtures is '/', but no saved mixture"),
    ],
)
def test_without_a_mixture_nothing_is_pruned(host, bases, prune, widgets, words):
    host.node("LoRWeBSaveMixture").execute(bases[0].route(torch.randn(72)), "one")
    with pytest.raises(host.core.LoRWebError, match=words):
        prune(bases[0], **widgets)
    assert not list((host.models / "lorweb").rglob("*pruned*"))


@pytest.mark.parametrize("name", ["../out", "/tmp/out", ""])
def test_names_that_leave_the_folder_are_refused(host, bases, prune, name):
    with pytest.raises(host.core.LoRWebError, match="does not stay in models/lorweb"):
        host.node("LoRWeBMergeBases").execute(*bases, name=name)
    with pytest.raises(host.core.LoRWebError, match="does not stay in models/lorweb"):
        prune(bases[0], [only(bases[0].route(torch.randn(72)), 0)], name=name)


def test_replace_leaves_a_basis_of_another(host, bases, prune):
    path = host.models / "lorweb" / "small-0.safetensors"
    before = path.read_bytes()
    with pytest.raises(host.core.LoRWebError, match="not written by this node, so it is not replaced"):
        host.node("LoRWeBMergeBases").execute(*bases, name="small-0", if_exists="replace")
    with pytest.raises(host.core.LoRWebError, match="not written by this node, so it is not replaced"):
        prune(bases[0], [only(bases[0].route(torch.randn(72)), 0)], name="small-0", if_exists="replace")
    assert path.read_bytes() == before


@pytest.mark.parametrize("node_id", ["LoRWeBMergeBases", "LoRWeBPruneBasis"])
def test_cancel_leaves_the_files_as_they_were(host, bases, prune, node_id):
    import comfy.model_management

    def run(name):
        if node_id == "LoRWeBMergeBases":
            return host.node(node_id).execute(*bases, name=name, if_exists="replace")
        return prune(bases[0], [only(bases[0].route(torch.randn(72)), 0)], name=name, if_exists="replace")

    run("older")
    folder = host.models / "lorweb"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    for name in ("older", "newer"):
        comfy.model_management.interrupt_current_processing(True)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run(name)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_graph_prunes_by_a_sweep_and_merges(comfyui, tmp_path):
    from comfy_server import ComfyServer

    folder = tmp_path / "models" / "lorweb"
    folder.mkdir(parents=True)
    standins.save_demo_basis(folder / "basis.safetensors")
    standins.image_encoder(tmp_path / "models" / "clip_vision" / "clip-vit-large-patch14", standins.QUERY_WIDTH)
    standins.save_pictures(tmp_path / "input")
    pictures = {name: {"class_type": "LoadImage", "inputs": {"image": f"{name}.png"}} for name in ("a", "a_prime", "b")}
    analogy = {"basis": ["basis", 0], **{name: [name, 0] for name in pictures}}
    graph = {
        **pictures,
        "basis": node("LoRWeBBasisLoader", basis_name="basis.safetensors", config_name="auto"),
        "one": node("LoRWeBAnalogyEncoder", **analogy),
        "two": node("LoRWeBAnalogyEncoder", **analogy | {"b": ["a", 0]}),
        "sweep": node(
            "LoRWeBMixtureBlend",
            **{"mixture_1": ["one", 0], "mixture_2": ["two", 0], "space": "coefficients", "steps": 3},
            **{f"weight_{slot}": float(slot == 2) for slot in range(1, 5)},
        ),
        "solo": node("LoRWeBMixtureEdit", mixture=["sweep", 1], solo="1, 3"),
        "prune": node(
            "LoRWeBPruneBasis",
            **{"basis": ["basis", 0], "mixtures": ["solo", 0], "saved_mixtures": "", "share": 0.01},
            **{"name": "smaller", "if_exists": "number"},
        ),
        "merge": node(
            "LoRWeBMergeBases", basis_1=["basis", 0], basis_2=["prune", 0], name="merged", if_exists="number"
        ),
        "look": node("LoRWeBMixtureInspector", mixture=["prune", 3]),
    }
    with ComfyServer(comfyui, sys.executable, tmp_path) as server:
        info = json.loads(server.get("/object_info/LoRWeBMixtureEdit"))["LoRWeBMixtureEdit"]["input"]
        for name, described in {**info["required"], **info.get("optional", {})}.items():
            kind, options = described[0], described[1] if len(described) > 1 else {}
            default = options.get("default", kind[0] if isinstance(kind, list) else None)
            if default is not None:
                graph["solo"]["inputs"].setdefault(name, default)
        (shown,) = server.run(graph)
    assert len(shown["prune"]) == 1
    assert len(shown["look"]) == 3
    sizes = {
        name: len(next(t for key, t in load_file(folder / f"{name}.safetensors").items() if key.endswith("lora_keys")))
        for name in ("smaller", "merged")
    }
    assert sizes == {"smaller": 2, "merged": 6}


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}
