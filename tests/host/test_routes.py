"""What the pack's page asks of a running server: saved mixtures, and only those."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request

import pytest
import standins
import torch

BASIS = standins.STANDINS["lorweb"]


@pytest.fixture(scope="module")
def saved(server):
    """Save two mixtures of the server's basis; gives their changes, all layers as one vector."""
    from lorweb_core import load_basis
    from lorweb_core.config import find_config
    from lorweb_core.space.mixture_file import save_mixture

    path = server.base / "models" / "lorweb" / BASIS
    basis = load_basis(path, find_config(path))
    (server.base / "models" / "lorweb_mixtures").mkdir(exist_ok=True)
    changes = []
    for seed, name in enumerate(("one", "two")):
        generator = torch.Generator().manual_seed(seed)
        query = torch.randn(1, 1, basis.query_width, generator=generator)
        mixture = basis.route(query)
        save_mixture(mixture, server.base / "models" / "lorweb_mixtures" / f"{name}.safetensors")
        changes.append(torch.cat([mixture.delta(layer).double().flatten() for layer in basis.layers]))
    return changes


def ask(server, **query) -> tuple[int, dict]:
    url = f"http://127.0.0.1:{server.port}/lorweb/mixtures?{urllib.parse.urlencode(query, doseq=True)}"
    try:
        with urllib.request.urlopen(url) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def test_saved_mixtures_lie_as_far_apart_as_their_changes(server, saved):
    status, view = ask(server, basis=BASIS, mixture=["one.safetensors", "two.safetensors"])
    assert status == 200, view
    points = torch.tensor(view["points"]).double()
    one, two = saved
    assert (points[0] - points[1]).norm() == pytest.approx(float((one - two).norm()), rel=1e-3)
    assert (points[0] - points[2]).norm() == pytest.approx(float(one.norm()), rel=1e-3)
    assert [sum(shares) for shares in view["shares"]] == pytest.approx([1, 1], abs=1e-3)


@pytest.mark.parametrize(
    "query, said",
    [
        ({"basis": BASIS, "mixture": "../lorweb/" + BASIS}, "is not a .safetensors file in"),
        ({"basis": "../../secret.safetensors", "mixture": "one.safetensors"}, "is not a .safetensors file in"),
        ({"basis": BASIS, "config": "/etc/passwd", "mixture": "one.safetensors"}, "is not a .yaml file in"),
        ({"basis": BASIS}, "0 mixtures are asked for; expected 1 to 4"),
        ({"basis": BASIS, "mixture": ["one.safetensors"] * 5}, "5 mixtures are asked for"),
        ({"basis": BASIS, "mixture": "one.safetensors", "origin": "<b>"}, "origin is '<b>'; expected one of"),
        ({"basis": BASIS, "mixture": "large.safetensors"}, "large.safetensors has more than 64 MB"),
    ],
)
def test_what_is_not_offered_is_refused_in_words(server, saved, query, said):
    with open(server.base / "models" / "lorweb_mixtures" / "large.safetensors", "wb") as file:
        file.truncate(2**26 + 1)
    status, answer = ask(server, **query)
    assert status == 400
    assert said in answer["error"]
