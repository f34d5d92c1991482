"""Analogies and captions → what the base and the basis are given of them, each encoded once and kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ...encoder import VisionEncoder
from ...errors import LoRWebError, shown
from ...files.tensor_files import LastingIdentity, lasting_identity
from ...grid import MULTIPLE, Size, reference_grid, resize
from ...query import encode_queries
from ...triplet import Triplet
from .analogies import Analogy, load_picture
from .batch import Text
from .disk_cache import DiskCache, Tensors


class Encoders(Protocol):
    """Describe the frozen parts of the base that make of pictures and words what it takes."""

    @property
    def identity(self) -> str:
        """Tell these encoders from others that make other numbers."""

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode (n, H, W, 3), float32 in 0–1, as latents (n, C, h, w) that the base denoises, float32 on the CPU."""

    def encode_text(self, captions: list[str]) -> Text:
        """Encode captions, each as equally many tokens, on the CPU."""


def analogy_grids(
    a: Tensor, a_prime: Tensor, b: Tensor, b_prime: Tensor, cell: Size, show_pair: bool = True
) -> tuple[Tensor, Tensor]:
    """Make the grids [a a'; b b'], to be learned, and [a a'; b b], to be shown: of four cells, (H, W, 3) in 0–1.

    Images are (h, w, 3), each of any size, and are stretched (bicubic) to cells of one size, whatever their shape: so
    all grids of a batch have one shape, in training that of a square analogy at inference. show_pair: False has b in
    the place of a and of a', an ablation in training.
    """
    size = Size(2 * cell.height, 2 * cell.width)
    reference = reference_grid([(a, a_prime) if show_pair else (b, b)], b, size, size)
    target = reference.clone()
    target[cell.height :, cell.width :] = resize(b_prime[None], cell)[0]
    return target, reference


def last_cell(grids: Tensor) -> Tensor:
    """Cut b' out of the latents of grids, (…, h, w), in which it was encoded: as the base knows it from all grids."""
    return grids[..., grids.shape[-2] // 2 :, grids.shape[-1] // 2 :].clone()


class Encoding:
    """Encode what is asked for, unless it is in the cache."""

    def __init__(
        self,
        encoders: Encoders,
        encoder: VisionEncoder | None,
        mode: str | None,
        identity: str,
        cell: int,
        cache: Path,
        show_pair: bool,
        sampled: str,
    ):
        """Take what `Examples` takes."""
        if (encoder is None) != (mode is None):
            raise ValueError("queries take both, an encoder and a mode")
        if cell < MULTIPLE // 2 or 2 * cell % MULTIPLE:
            raise LoRWebError(f"resolution is {cell}; expected a multiple of {MULTIPLE // 2} pixels, 512 as published.")
        if sampled == "result" and cell % MULTIPLE:
            raise LoRWebError(
                f"resolution is {cell}; expected a multiple of {MULTIPLE} pixels, 512 as published, as train.sampled "
                "is result: b' alone is to be whole tokens."
            )
        self.encoders, self.encoder, self.mode = encoders, encoder, mode
        self.identity, self.cell, self.show_pair, self.sampled = identity, cell, show_pair, sampled
        self._cache = DiskCache(cache)

    def holds(self, of: Analogy | str) -> bool:
        """Tell whether an analogy, or a caption, was encoded already."""
        return self._cache.holds(self._made_of(of))

    def check_room(self, number: int, like: Analogy | str) -> None:
        """Raise LoRWebError if the disk has no room for so many more like this one, which was encoded."""
        self._cache.check_room(number, self._made_of(like))

    def latents(self, analogy: Analogy, images: Sequence[Tensor] | None = None) -> Tensors:
        """Encode `target` and `reference`, (C, h, w), float16, and with a mode `query`, (k, E), float32.

        images: the analogy's, where they are loaded already. Raises LoRWebError if one cannot be read, if values are
        not finite, or if they cannot be kept.
        """

        def encode() -> Tensors:
            a, a_prime, b, b_prime = images or [load_picture(picture) for picture in analogy.pictures]
            cell = Size(self.cell, self.cell)
            grids = torch.stack(analogy_grids(a, a_prime, b, b_prime, cell, self.show_pair))
            target, reference = self.encoders.encode_image(grids).half()
            made = {"target": last_cell(target) if self.sampled == "result" else target, "reference": reference}
            if self.encoder is not None and self.mode is not None:
                made["query"] = encode_queries(self.encoder, [Triplet([(a, a_prime)], b)], self.mode)[0]
            return _finite(made, analogy.name)

        return self._cache.get(self._made_of(analogy), encode)

    def text(self, caption: str) -> Tensors:
        """Encode a caption as `tokens`, (1, T, W), and `pooled`, (1, P).

        In float16: FLUX's take 4 MB, and each picture may have a caption.
        """

        def encode() -> Tensors:
            text = self.encoders.encode_text([caption])._asdict()
            return _finite({name: values.half() for name, values in text.items()}, f"the caption {shown(caption)}")

        return self._cache.get(self._made_of(caption), encode)

    def _made_of(self, of: Analogy | str) -> list:
        """List all that an encoding depends on."""
        if isinstance(of, str):
            return ["caption", of, self.identity]
        pictures = [(_identity(picture.path), picture.part, picture.parts) for picture in of.pictures]
        sampled = [] if self.sampled == "grid" else [self.sampled]
        return ["analogy", pictures, self.cell, self.show_pair, self.mode, self.identity, *sampled]


def _finite(tensors: Tensors, of: str) -> Tensors:
    """Check that values are finite: what is kept is trained on for days."""
    wrong = [name for name, values in tensors.items() if not values.isfinite().all()]
    if wrong:
        raise LoRWebError(
            f"The encoders made values that are not finite ({', '.join(wrong)}) of {of}. Look at its files; if others "
            "give the same, let the encoders compute in fp32."
        )
    return tensors


def _identity(path: Path) -> LastingIdentity | None:
    """Tell a file from others; None if there is none, which reading it will say."""
    try:
        return lasting_identity(path)
    except LoRWebError:
        return None
