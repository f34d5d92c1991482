"""The nodes that blend, edit, save and load mixtures, as the host sees and calls them."""

from __future__ import annotations

from dataclasses import replace

import parity
import pytest
import torch


@pytest.fixture
def basis(host, tmp_path):
    return host.core.load_basis(parity.write_checkpoint(tmp_path, "softmax_mean_1"))


@pytest.fixture
def mixtures(basis):
    generator = torch.Generator().manual_seed(0)
    return [basis.route(torch.randn(1, 3, 16, generator=generator)) for _ in range(2)]


@pytest.fixture
def defaults(host):
    """The widgets of a node as the front end fills them in."""

    def defaults(node_id: str) -> dict:
        schema = host.node(node_id).GET_SCHEMA()
        return {i.id: i.default for i in schema.inputs if getattr(i, "default", None) is not None}

    return defaults


@pytest.fixture
def files(host):
    folder = host.models / "lorweb_mixtures"
    yield folder
    for file in sorted(folder.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()


WEIGHTS = [f"weight_{slot}" for slot in (1, 2, 3, 4)]
SOCKETS = {
    "LoRWeBMixtureBlend": (
        "Mixture Blend",
        ["mixture_1", "mixture_2", "mixture_3", "mixture_4", *WEIGHTS, "space", "steps", "origin"],
        ["mixture", "sweep"],
    ),
    "LoRWeBMixtureEdit": (
        "Mixture Edit",
        [
            *("mixture", "temperature", "mute", "solo", "keep", "top_k", "top_p", "renormalize", "scale"),
            *("blocks", "kind", "stream", "origin", "factors"),
        ],
        ["mixture"],
    ),
    "LoRWeBSaveMixture": ("Save Mixture", ["mixture", "name", "if_exists"], ["mixture_name"]),
    "LoRWeBLoadMixture": ("Load Mixture", ["basis", "mixture_name"], ["mixture"]),
}


@pytest.mark.parametrize("node_id", SOCKETS)
def test_the_names_and_sockets_others_lean_on(host, node_id):
    name, inputs, outputs = SOCKETS[node_id]
    schema = host.node(node_id).GET_SCHEMA()
    assert schema.display_name == name
    assert [i.id for i in schema.inputs] == inputs
    assert [o.id for o in schema.outputs] == outputs
    optional = {"mixture_2", "mixture_3", "mixture_4", "blocks", "kind", "stream", "origin", "factors"}
    assert {i.id for i in schema.inputs if i.optional} == optional & {*inputs}


def test_every_node_of_the_pack_says_what_it_and_its_sockets_are_for(host):
    import nodes

    ours = [node for name, node in nodes.NODE_CLASS_MAPPINGS.items() if name.startswith("LoRWeB")]
    assert len(ours) >= 20
    for schema in (node.GET_SCHEMA() for node in ours):
        assert schema.description
        assert all(socket.tooltip for socket in (*schema.inputs, *schema.outputs)), schema.node_id


def test_a_blend_with_the_defaults_is_its_first_mixture(host, mixtures, defaults):
    node = host.node("LoRWeBMixtureBlend")
    mixture, sweep = node.execute(mixture_1=mixtures[0], mixture_2=mixtures[1], **defaults("LoRWeBMixtureBlend")).result
    assert torch.equal(mixture.table, mixtures[0].table)
    assert len(sweep) == 5
    assert [output.is_output_list for output in node.GET_SCHEMA().outputs] == [False, True]


def test_sliders_and_slots_go_together(host, mixtures, defaults):
    given = defaults("LoRWeBMixtureBlend") | {"weight_1": -1.0, "weight_3": 2.0, "weight_4": 9.0}
    mixture, sweep = (
        host.node("LoRWeBMixtureBlend")
        .execute(mixture_1=mixtures[0], mixture_3=mixtures[1], mixture_4=None, **given)
        .result
    )
    torch.testing.assert_close(mixture.table, 2 * mixtures[1].table - mixtures[0].table)
    assert torch.equal(sweep[-1].table, mixture.table)


@pytest.fixture
def known(basis, mixtures):
    """The mixtures with the origin of both."""
    origin = basis.route(torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(5)))
    return [replace(mixture, origin=origin) for mixture in mixtures]


def test_without_the_origin_input_graphs_mean_what_they_meant(host, known, defaults):
    given = {"mixture_1": known[0], "mixture_2": known[1], **defaults("LoRWeBMixtureBlend"), "weight_2": 1.0}
    del given["origin"]
    mixture, _ = host.node("LoRWeBMixtureBlend").execute(**given).result
    torch.testing.assert_close(mixture.table, known[0].table + known[1].table)
    (half,) = host.node("LoRWeBMixtureEdit").execute(mixture=known[0], scale=0.5).result
    torch.testing.assert_close(half.table, 0.5 * known[0].table)


def test_from_no_edit_edits_add_up_and_have_a_strength(host, known, defaults):
    from_no_edit = {"origin": "no edit"}
    given = defaults("LoRWeBMixtureBlend") | {"weight_2": 1.0} | from_no_edit
    mixture, sweep = host.node("LoRWeBMixtureBlend").execute(mixture_1=known[0], mixture_2=known[1], **given).result
    o, x, y = known[0].origin.table, known[0].table, known[1].table
    torch.testing.assert_close(mixture.table, x + y - o)
    torch.testing.assert_close(sweep[2].table, x + 0.5 * (y - o))
    given = defaults("LoRWeBMixtureEdit") | {"scale": 1.5} | from_no_edit
    (edited,) = host.node("LoRWeBMixtureEdit").execute(mixture=known[0], **given).result
    torch.testing.assert_close(edited.table, o + 1.5 * (x - o))


def test_a_mixture_without_an_origin_says_what_to_do(host, mixtures):
    for node_id, inputs in (
        ("LoRWeBMixtureBlend", {"mixture_1": mixtures[0], "weight_1": 0.5}),
        ("LoRWeBMixtureEdit", {"mixture": mixtures[0], "scale": 0.5}),
    ):
        with pytest.raises(host.core.LoRWebError, match="no origin.*Analogy Encoder, or set origin to zero"):
            host.node(node_id).execute(**inputs, origin="no edit")


def test_an_edit_with_the_defaults_changes_nothing(host, mixtures, defaults):
    (edited,) = host.node("LoRWeBMixtureEdit").execute(mixture=mixtures[0], **defaults("LoRWeBMixtureEdit")).result
    assert torch.equal(edited.table, mixtures[0].table)


@pytest.mark.parametrize(("keep", "left"), [("all", 4), ("top k", 2), ("top p", 1)])
def test_keep_says_which_of_the_two_numbers_counts(host, mixtures, defaults, keep, left):
    given = defaults("LoRWeBMixtureEdit") | {"keep": keep, "top_k": 2, "top_p": 0.01}
    (edited,) = host.node("LoRWeBMixtureEdit").execute(mixture=mixtures[0], **given).result
    assert edited.table.count_nonzero(-1).eq(left).all()


def test_a_mixture_edited_to_nothing_leaves_the_model_as_it_is(host, load_flux, mixtures, velocity):
    (edited,) = host.node("LoRWeBMixtureEdit").execute(mixture=mixtures[0], scale=0.0).result
    model = load_flux()
    torch.testing.assert_close(velocity(host.apply.apply_mixture(model, edited)), velocity(model))


def test_saved_and_loaded_it_patches_the_same(host, basis, mixtures, files, load_flux, velocity):
    save, load = host.node("LoRWeBSaveMixture"), host.node("LoRWeBLoadMixture")
    (name,) = save.execute(mixtures[0], "edits/night").result
    assert name in ("edits/night.safetensors", "edits\\night.safetensors")
    assert name in load.define_schema().inputs[1].options
    assert load.validate_inputs(name) is True
    loaded = load.execute(basis, name).result[0]
    model = load_flux()
    applied = [velocity(host.apply.apply_mixture(model, m, method="merge")) for m in (loaded, mixtures[0])]
    assert torch.equal(*applied)


def test_a_saved_mixture_keeps_its_origin(host, basis, known, mixtures, files):
    save, load = host.node("LoRWeBSaveMixture"), host.node("LoRWeBLoadMixture")
    names = [save.execute(mixture, name).result[0] for mixture, name in ((known[0], "new"), (mixtures[0], "old"))]
    new, old = (load.execute(basis, name).result[0] for name in names)
    assert torch.equal(new.origin.table, known[0].origin.table)
    assert old.origin is None


def test_the_pictures_it_was_made_of_show_on_both_nodes(host, basis, mixtures, files):
    thumbnails = host.core.pictures.thumbnails.make_thumbnails(host.core.triplets(*torch.rand(3, 64, 32, 3)))
    saved = host.node("LoRWeBSaveMixture").execute(replace(mixtures[0], thumbnails=thumbnails), "shown")
    loaded = host.node("LoRWeBLoadMixture").execute(basis, "shown.safetensors")
    for output in (saved, loaded):
        assert len(output.ui.as_dict()["images"]) == 1
    assert host.node("LoRWeBSaveMixture").execute(mixtures[0], "plain").ui is None


def test_an_older_file_stays_unless_it_is_to_be_replaced(host, basis, mixtures, files):
    save, load = host.node("LoRWeBSaveMixture"), host.node("LoRWeBLoadMixture")
    names = [save.execute(mixture, "edit").result[0] for mixture in mixtures]
    assert names == ["edit.safetensors", "edit-2.safetensors"]
    before = load.fingerprint_inputs(mixture_name="edit.safetensors")
    assert save.execute(mixtures[1], "edit.safetensors", "replace").result == ("edit.safetensors",)
    assert load.fingerprint_inputs(mixture_name="edit.safetensors") != before
    for name in names:
        assert torch.equal(load.execute(basis, name).result[0].table, mixtures[1].table)


@pytest.mark.parametrize(
    "name",
    [
        *("", "  ", "../out", "/etc/out", "a/../../out", "..\\out", "C:\\out", "a:b", "what?", "a\0b", ".", "a/.. /b"),
        *("//{elsewhere}/out", "\\\\{elsewhere}\\out", "aux.txt", "x" * 200, "a/" * 8 + "a", "pairs\ud800"),
    ],
    ids=ascii,
)
@pytest.mark.parametrize("if_exists", ["number", "replace"])
def test_names_that_leave_the_folder_are_refused(host, mixtures, files, tmp_path, name, if_exists):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "out.safetensors").write_text("theirs")
    name = name.replace("{elsewhere}", str(tmp_path / "elsewhere").lstrip("/\\"))
    with pytest.raises(host.core.LoRWebError, match="The name"):
        host.node("LoRWeBSaveMixture").execute(mixtures[0], name, if_exists)
    assert not list(files.rglob("*"))
    assert (tmp_path / "elsewhere" / "out.safetensors").read_text() == "theirs"
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1


def test_replace_leaves_a_file_that_is_no_mixture(host, mixtures, files):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, files / "theirs.safetensors", {"format": "pt"})
    before = (files / "theirs.safetensors").read_bytes()
    with pytest.raises(host.core.LoRWebError, match="not written by this node, so it is not replaced. Choose another"):
        host.node("LoRWeBSaveMixture").execute(mixtures[0], "theirs", "replace")
    assert (files / "theirs.safetensors").read_bytes() == before


def test_a_folder_that_cannot_be_written_is_said(host, mixtures, files):
    files.mkdir(exist_ok=True)
    (files / "file").write_text("no folder")
    with pytest.raises(host.core.LoRWebError, match="cannot be made"):
        host.node("LoRWeBSaveMixture").execute(mixtures[0], "file/edit")


def test_a_mixture_of_another_basis_or_none_is_refused(host, basis, mixtures, files, tmp_path):
    save, load = host.node("LoRWeBSaveMixture"), host.node("LoRWeBLoadMixture")
    save.execute(mixtures[0], "edit")
    (tmp_path / "other").mkdir()
    tensors = host.core.files.tensor_files.read_tensors(parity.write_checkpoint(tmp_path / "other", "softmax_mean_1"))
    from safetensors.torch import save_file

    changed = tmp_path / "other" / "changed.safetensors"
    save_file({name: t * 2 for name, t in tensors.items()}, changed)
    with pytest.raises(host.core.LoRWebError, match=r"edit\.safetensors is a mixture of another basis"):
        load.execute(host.core.load_basis(changed), "edit.safetensors")
    save_file({"x": torch.zeros(1)}, files / "x.safetensors")
    assert "is not a saved mixture" in load.validate_inputs("x.safetensors")
    assert "is not a .safetensors file in" in load.validate_inputs("../x.safetensors")
