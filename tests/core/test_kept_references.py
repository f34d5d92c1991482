"""Keys and values of references, kept between the steps of one run."""

from __future__ import annotations

import pytest
import torch

from lorweb_core import LoRWebError
from lorweb_core.kept_references import STORED, KeptReferences, Refresh, kept_bytes


@pytest.mark.parametrize(
    ("refresh", "computed"),
    [
        (Refresh(), [0, 1, 2, 3, 4, 5, 6, 7]),
        (Refresh(every=3), [0, 3, 6]),
        (Refresh(every=0), [0]),
        (Refresh(shares=(0.5,)), [0, 4]),
        (Refresh(shares=(0.26, 0.0, 0.99)), [0, 2, 7]),
    ],
)
def test_references_are_computed_in_the_steps_chosen(refresh, computed):
    rounds = [refresh.round(step, 8) for step in range(8)]
    assert [step for step in range(8) if step == 0 or rounds[step] != rounds[step - 1]] == computed
    assert refresh.keeps == (len(computed) < 8)


@pytest.mark.parametrize("refresh", [Refresh(every=-1), Refresh(shares=(1.0,)), Refresh(shares=(float("nan"),))])
def test_steps_that_there_are_none_of_are_refused(refresh):
    with pytest.raises(LoRWebError, match=r"^(every is -1|shares has (1\.0|nan)); expected"):
        refresh.check()


def of_a_pass(batch: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 2, 6, 8), torch.randn(batch, 2, 6, 8)


def test_each_picture_gets_back_its_own_in_any_order_and_number():
    kept, (k, v), (own_k, own_v) = KeptReferences(), of_a_pass(), of_a_pass(2)
    kept.keep(["cond", "uncond"], 0, "block 0", k, v)
    assert kept.serve(["uncond"], 0) and kept.serve(["uncond", "cond"], 0)
    assert not kept.serve(["cond"], 1) and not kept.serve(["cond", "other"], 0)
    joined = kept.join(["uncond"], "block 0", own_k, own_v)
    assert torch.equal(joined[0], torch.cat([own_k, k[2:]], 2))
    assert torch.equal(joined[1], torch.cat([own_v, v[2:]], 2))
    both = kept.join(["uncond", "cond"], "block 0", *of_a_pass())[0]
    assert torch.equal(both[:, :, 6:], torch.cat([k[2:], k[:2]]))


def test_what_is_kept_is_counted_and_holds_nothing_else():
    kept, (k, v) = KeptReferences(), of_a_pass()
    kept.keep(["a"], 0, "block 0", k[:, :, 2:], v[:, :, 2:])
    assert kept.nbytes == 2 * 4 * 2 * 4 * 8 * 4 == kept_bytes(1, 4, 4, 16, 4)
    k.zero_()
    assert kept.join(["a"], "block 0", k, v)[0][:, :, 6:].abs().min() > 0
    kept.clear()
    assert kept.nbytes == 0 and not kept.serve(["a"], 0)


def test_8_bits_take_a_quarter_of_float32_and_are_off_by_half_a_step_of_127():
    kept, (k, v) = KeptReferences("int8"), of_a_pass()
    kept.keep(["a"], 0, "block 0", k, v)
    again = kept.join(["a"], "block 0", *of_a_pass())[0][:, :, 6:]
    step = k.abs().amax(-1, keepdim=True) / 127
    assert ((again - k).abs() <= 0.5001 * step).all()
    assert kept.nbytes == 2 * 4 * 2 * 6 * (8 + 4)


def test_another_form_is_refused():
    with pytest.raises(LoRWebError, match="expected: exact, int8"):
        KeptReferences("int4")
    assert kept_bytes(57, 1, 4096, 3072, 2) == 57 * 2 * 4096 * 3072 * 2
    assert kept_bytes(57, 1, 4096, 3072, 2, "int8") < 0.52 * kept_bytes(57, 1, 4096, 3072, 2)
    assert set(STORED) == {"exact", "int8"}
