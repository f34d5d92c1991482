"""What stands in the place of an input is refused in words, whichever node it is."""

from __future__ import annotations

import pytest
import torch

PICTURE = torch.zeros(1, 32, 32, 3)


@pytest.mark.parametrize(
    ("node", "given", "words"),
    [
        ("AnalogyResult", {"image": {}}, "Analogy Result: image is {}; expected a IMAGE from another node"),
        ("AnalogyResult", {"image": PICTURE, "pairs": -1}, "pairs is -1; expected a whole number from 1 on"),
        ("AnalogyResult", {"image": PICTURE, "pairs": 2**80}, "pairs is 1208925819614629174706176; expected"),
        ("AnalogyResult", {"image": PICTURE, "pairs": 1.5}, "pairs is 1.5"),
        ("AnalogyResult", {"image": PICTURE, "pairs": True}, "pairs is True"),
        ("AnalogyResult", {"image": PICTURE, "fit": []}, r"fit is \[\]; expected a text"),
        ("AnalogyResult", {"image": torch.zeros(1, 3, 32, 32)}, "image has the shape"),
        ("AnalogyResult", {"image": torch.zeros(())}, "image has the shape"),
        ("MixedLoRAApply", {"model": "a", "mixture": None}, "model is 'a'; expected a MODEL"),
        ("MixtureEdit", {"mixture": PICTURE}, "mixture is .*; expected a LORWEB_MIXTURE"),
        ("AnalogyScore", {"basis": 1, "clip_vision": {}}, "basis is 1; expected a LORWEB_BASIS"),
        ("BasisSimilarity", {"basis": [1]}, r"basis is \[1\]"),
        ("PruneBasis", {"basis": ["\ud800"], "share": [0.1]}, r"basis is '\\ud800'"),
        ("ExtendedAttention", {"positive": [[1]], "vae": 3}, r"positive is \[\[1\]\]; expected a CONDITIONING"),
        ("TrainBasis", {"model": {}, "loras": 2**63}, "model is {}"),
    ],
)
def test_what_is_no_input_is_refused(host, node, given, words):
    with pytest.raises(host.core.LoRWebError, match=words):
        host.node(f"LoRWeB{node}").execute(**given)


def test_a_mixture_is_described_shortly(mixture):
    assert len(repr(mixture)) < 200
    assert "tensor(" not in repr(mixture)
