"""Analogies → batches, drawn at random."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...basis import Progress
from ...encoder import VisionEncoder
from ...errors import LoRWebError
from ..seeds import generator
from .analogies import Analogy, list_names, load_picture
from .batch import Batch, Text
from .encoding import Encoders, Encoding

__all__ = ["Encoders", "Examples"]

log = logging.getLogger(__name__)


class Examples:
    """Draw batches of analogies at random, of each edit as often as of any other; a Source.

    Everything is encoded once, by `prepare` or when it is first drawn, and is then read from disk batch by batch.
    """

    def __init__(
        self,
        analogies: Sequence[Analogy],
        encoders: Encoders,
        encoder: VisionEncoder | None,
        mode: str | None,
        *,
        identity: str,
        cell: int,
        cache: Path,
        seed: int = 42,
        batch_size: int = 1,
        caption_dropout: float = 0.0,
        show_pair: bool = True,
        sampled: str = "grid",
    ):
        """encoder, mode: for queries, one of QUERY_MODES; both None for a basis that routes by activation.

        identity: what the numbers of all encoders depend on, such as the names of their checkpoints; what was kept for
        another identity is not used. cell: pixels a side, the published resolution. cache: folder for what was encoded.
        caption_dropout: share of examples that get an empty caption. show_pair, sampled: as for
        `analogy_grids`.
        Raises LoRWebError if there is no analogy, and for what is wrong with cell or cache.
        """
        self.seed, self.batch_size, self.caption_dropout = seed, batch_size, caption_dropout
        self._encoding = Encoding(encoders, encoder, mode, identity, cell, cache, show_pair, sampled)
        self._draw_from(analogies)

    def _draw_from(self, analogies: Sequence[Analogy]) -> None:
        if not analogies:
            raise LoRWebError("There is no analogy left of which all pictures can be read.")
        self.analogies = list(analogies)
        self._by_edit: dict[str, list[Analogy]] = {}
        for analogy in analogies:
            self._by_edit.setdefault(analogy.edit, []).append(analogy)
        self._edits = sorted(self._by_edit)

    def prepare(self, progress: Progress | None = None) -> None:
        """Encode all that is not kept yet; the encoders are not needed afterwards.

        Analogies with pictures that cannot be read are left out of `analogies` from then on; the pictures are counted
        and named in one warning. progress: of the analogies and captions to encode. Raises LoRWebError if no analogy is
        left, if values are not finite, or if the disk has no room; what was encoded until then is kept.
        """
        analogies = [analogy for analogy in dict.fromkeys(self.analogies) if not self._encoding.holds(analogy)]
        wanted = {analogy.caption for analogy in self.analogies} | ({""} if self.caption_dropout else set())
        captions = sorted(caption for caption in wanted if not self._encoding.holds(caption))
        tell = progress or (lambda done, total: None)
        total = len(analogies) + len(captions)
        unreadable: dict[Path, str] = {}
        lost: set[Analogy] = set()
        for done, analogy in enumerate(analogies):
            tell(done, total)
            images = _load(analogy, unreadable)
            if images is None:
                lost.add(analogy)
                continue
            self._encoding.latents(analogy, images)
            if done == len(lost):  # the first that is kept tells the size of the others
                self._encoding.check_room(len(analogies) - done - 1, analogy)
        self._leave_out(lost, unreadable)
        for done, caption in enumerate(captions):
            tell(len(analogies) + done, total)
            self._encoding.text(caption)
            if done == 0:
                self._encoding.check_room(len(captions) - 1, caption)
        if total:
            tell(total, total)

    def _leave_out(self, lost: set[Analogy], unreadable: dict[Path, str]) -> None:
        left = [analogy for analogy in self.analogies if analogy not in lost]
        if lost:
            log.warning(
                "%d pictures cannot be read, so %d of %d analogies are left out. %s",
                len(unreadable),
                len(self.analogies) - len(left),
                len(self.analogies),
                list_names(list(unreadable.values()), show=str),
            )
        self._draw_from(left)

    def draw(self, step: int) -> Batch:
        """Draw `batch_size` analogies: for each an edit, all equally likely, then one of its analogies."""
        random = generator(self.seed, 0, step)

        def pick(among: Sequence) -> Any:
            return among[int(torch.randint(len(among), (), generator=random))]

        drawn = []
        for _ in range(self.batch_size):
            analogy = pick(self._by_edit[pick(self._edits)])
            dropped = torch.rand((), generator=random) < self.caption_dropout
            drawn.append(analogy._replace(caption="") if dropped else analogy)
        return self.batch(drawn)

    def batch(self, analogies: Sequence[Analogy]) -> Batch:
        """Make a batch of analogies. Raises LoRWebError if one that is not kept has a picture that cannot be read."""
        latents = [self._encoding.latents(analogy) for analogy in analogies]
        texts = {caption: self._encoding.text(caption) for caption in {analogy.caption for analogy in analogies}}
        text = [texts[analogy.caption] for analogy in analogies]

        def stacked(name: str) -> Tensor:
            return torch.stack([each[name] for each in latents]).float()

        return Batch(
            stacked("target"),
            stacked("reference"),
            stacked("query") if self._encoding.mode else None,
            Text(*(torch.cat([each[part] for each in text]).float() for part in Text._fields)),
            tuple(analogy.name for analogy in analogies),
        )


def _load(analogy: Analogy, unreadable: dict[Path, str]) -> list[Tensor] | None:
    """Load an analogy's pictures; None if one cannot be read, and why is then in `unreadable`, by file."""
    images = []
    for picture in analogy.pictures:
        if picture.path in unreadable:
            return None
        try:
            images.append(load_picture(picture))
        except LoRWebError as error:
            unreadable[picture.path] = str(error)
            return None
    return images
