"""Expect b' as a model does: the mean of all that it would make of b by a mixture, in one forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import LoRWebError
from ..grid import Size, area_size
from ..mixture import Mixture
from ..training.data.batch import Batch
from ..training.data.encoding import Encoders, analogy_grids, last_cell
from ..training.objective import Base, move_batch
from ..training.seeds import generator
from .attached import AttachedBasis


def expect(base: Base, encoders: Encoders, mixture: Mixture, b: Tensor, megapixels: float = 1.0) -> Tensor:
    """Compute the mean b', (h, w, 3) in 0–1 of a cell's size, of a mixture of one analogy and b, (H, W, 3) in 0–1.

    From noise alone, at t = 1, the velocity of a flow-matching model is ε − E[x₀]. The model is shown b in all cells
    of the grid: distances to that mean picked better results than to one for which it saw the pair
    (`python -m small_world score`). megapixels: of the whole grid, in 1024² pixels. Raises LoRWebError for a mixture
    of several analogies or without coefficients, or if the base lacks its layers.
    """
    if mixture.analogies != 1:
        raise LoRWebError(
            f"The mixture is of {mixture.analogies} analogies; what the model expects can be told for one. Make it "
            "with one b."
        )
    with torch.inference_mode(False), torch.no_grad():
        return _expect(base, encoders, mixture.split()[0], b, megapixels)


def _expect(base: Base, encoders: Encoders, mixture: Mixture, b: Tensor, megapixels: float) -> Tensor:
    cell = area_size(Size(*b.shape[:2]), megapixels / 4)
    b = b.float().cpu()
    _, shown = analogy_grids(b, b, b, b, cell)
    reference = encoders.encode_image(shown[None])
    noise = torch.randn(last_cell(reference).shape, generator=generator(0)).to(base.device)
    batch = move_batch(Batch(noise, reference, None, encoders.encode_text([""]), ("b",)), base)
    with base.training(False):
        attached = AttachedBasis(mixture.basis, base)
        attached.mix(mixture.table.to(base.device))
        with attached.attached():
            t = torch.ones(1, device=base.device)
            velocity = base.velocity(noise.to(base.dtype), t, batch, False)
    return base.decode(noise - velocity.float())[0]
