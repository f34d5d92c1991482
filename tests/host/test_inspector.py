"""The nodes that show a mixture and a basis, as the host sees and calls them."""

from __future__ import annotations

import json

import parity
import pytest
import torch
from PIL import Image


@pytest.fixture
def other(mixture):
    return mixture.basis.route(parity.load_parity()["query"].flip(-1))


def previewed(output) -> list[torch.Tensor]:
    """The pictures that the front end is told to show, read from the host's folder for them."""
    import folder_paths
    import numpy

    folder = folder_paths.get_temp_directory()
    shown = (output.ui if isinstance(output.ui, dict) else output.ui.as_dict())["images"]
    assert {image["type"] for image in shown} == {"temp"}
    return [
        torch.from_numpy(numpy.array(Image.open(f"{folder}/{image['subfolder']}/{image['filename']}")))
        for image in shown
    ]


@pytest.mark.parametrize(
    ("node_id", "name", "inputs", "optional"),
    [
        ("LoRWeBMixtureInspector", "Mixture Inspector", ["mixture", "compare_with", "theme"], 2),
        ("LoRWeBBasisSimilarity", "Basis Similarity", ["basis", "blocks", "kind", "stream", "theme"], 4),
    ],
)
def test_names_and_sockets(host, node_id, name, inputs, optional):
    schema = host.node(node_id).GET_SCHEMA()
    assert schema.display_name == name
    assert [i.id for i in schema.inputs] == inputs
    assert [(o.id, o.io_type) for o in schema.outputs] == [("image", "IMAGE"), ("json", "STRING")]
    assert all(i.tooltip for i in schema.inputs)
    assert sum(i.optional for i in schema.inputs) == optional
    assert schema.is_output_node  # a picture is worth a run with nothing behind it


def test_the_inspector_shows_the_picture_and_hands_it_on(host, mixture, other):
    inspect = host.node("LoRWeBMixtureInspector").execute
    output = inspect(mixture)
    image, said = output.result
    assert image.shape[0] == 1
    assert image.shape[-1] == 3
    assert 0 <= float(image.min()) < float(image.max()) <= 1
    (preview,) = previewed(output)
    torch.testing.assert_close(preview.float() / 255, image[0], rtol=0, atol=1 / 255)
    total = torch.cat([mixture.delta(layer).flatten() for layer in mixture.basis.layers]).norm()
    assert json.loads(said)["total_size"] == pytest.approx(float(total), rel=1e-5)
    assert not torch.equal(image, inspect(other).result[0])


def test_a_second_mixture_is_compared_and_the_theme_obeyed(host, mixture, other):
    inspect = host.node("LoRWeBMixtureInspector").execute
    dark, said = inspect(mixture, compare_with=other).result
    light, _ = inspect(mixture, other, "light").result
    assert dark.shape[2] > inspect(mixture).result[0].shape[2]
    assert float(light.mean()) > 0.7 > 0.3 > float(dark.mean())
    x, y = mixture.table.flatten(), other.table.flatten()
    assert json.loads(said)["compared"]["cosine"] == pytest.approx(float(x @ y / x.norm() / y.norm()), abs=1e-5)


def test_of_a_batch_each_analogy_is_shown(host, mixture):
    query = parity.load_parity()["query"]
    batch = mixture.basis.route(torch.cat([query, query.flip(-1), -query]))
    output = host.node("LoRWeBMixtureInspector").execute(batch, compare_with=mixture)
    image, said = output.result
    assert len(image) == len(previewed(output)) == 3
    cosines = [entry["compared"]["cosine"] for entry in json.loads(said)]
    assert cosines[0] == pytest.approx(1)
    assert max(cosines[1:]) < 0.99


def test_a_mixture_without_coefficients_is_said_in_the_users_words(host, mixture):
    from dataclasses import replace

    with pytest.raises(host.core.LoRWebError, match="routes by each layer's own input"):
        host.node("LoRWeBMixtureInspector").execute(replace(mixture, coefficients={}))


def test_the_inspector_can_be_cancelled(host, mixture):
    import comfy.model_management

    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        host.node("LoRWeBMixtureInspector").execute(mixture)
    comfy.model_management.interrupt_current_processing(False)


def test_the_similarity_is_shown_over_the_layers_chosen(host, mixture):
    show, basis = host.node("LoRWeBBasisSimilarity").execute, mixture.basis
    output = show(basis)
    image, said = output.result
    assert len(previewed(output)) == len(image) == 1
    assert json.loads(said)["layers"] == len(basis.layers)
    picked, said = show(basis, blocks="double 0", kind="attention", stream="image", theme="dark").result
    assert json.loads(said)["layers"] == 4
    assert not torch.equal(picked, image)
    changes = torch.stack(
        [
            torch.cat(
                [
                    (part.A[n].double() @ part.B[n].double()).flatten()
                    for layer, part in basis.layers.items()
                    if ".transformer_blocks.0.attn.to_" in layer and "add" not in layer
                ]
            )
            for n in range(len(next(iter(basis.layers.values())).A))
        ]
    )
    directions = changes / changes.norm(dim=1, keepdim=True)
    torch.testing.assert_close(
        torch.tensor(json.loads(said)["cosines"]).double(), directions @ directions.T, rtol=0, atol=1e-5
    )
    with pytest.raises(host.core.LoRWebError, match="blocks is 'triple'"):
        show(basis, blocks="triple")
