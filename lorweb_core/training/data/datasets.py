"""The datasets of a config: analogies to train on, analogies to show, and one source of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from ...basis import Progress
from ...encoder import VisionEncoder
from ...errors import LoRWebError
from ..seeds import generator
from ..settings.config import DatasetSettings, TrainingConfig
from .analogies import Analogy, load_picture, split_by_edit
from .batch import Batch
from .encoding import Encoders
from .examples import Examples
from .pictures_on_disk import read_analogies

Bar = Callable[[str, int], Progress]
"""(what is done, how much of it) → what is told how far it is."""


class Data(NamedTuple):
    """Hold a dataset's analogies, split by edit."""

    settings: DatasetSettings
    seen: list[Analogy]
    """To train on."""
    unseen: list[Analogy]
    """Analogies of edits that are kept from training."""


@dataclass(frozen=True)
class OneOf:
    """Draw each batch from one of several sources, the larger the likelier: batches of one size of picture."""

    sources: Sequence[Examples]
    seed: int

    def draw(self, step: int) -> Batch:
        sizes = torch.tensor([float(len(source.analogies)) for source in self.sources])
        chosen = int(torch.multinomial(sizes, 1, generator=generator(self.seed, 3, step)))
        return self.sources[chosen].draw(step)


def find_analogies(config: TrainingConfig) -> list[Data]:
    """Find the analogies of each dataset. Raises LoRWebError where there are none."""
    found = []
    for data in config.datasets:
        analogies = read_analogies(
            data.folder_path,
            data.control_path,
            data.layout,
            data.caption_ext,
            data.default_caption,
            data.analogies_per_edit,
            config.train.seed,
        )
        found.append(Data(data, *split_by_edit(analogies, data.held_out, data.validation_share, config.train.seed)))
    return found


def counted(analogies: Sequence[Analogy]) -> str:
    return f"{len(analogies)} analogies of {len({analogy.edit for analogy in analogies})} edits"


class Encoded:
    """Encode datasets into a folder that is kept."""

    def __init__(
        self,
        config: TrainingConfig,
        datasets: Sequence[Data],
        encoders: Encoders,
        vision: VisionEncoder | None,
        cache: Path,
        bar: Bar,
    ):
        """vision: None for a basis that routes by activation. cache: the folder; several runs may share it."""
        self.config, self.datasets = config, datasets
        self._encoders, self._vision, self._cache, self._bar = encoders, vision, cache, bar

    def source(self) -> OneOf:
        """Encode all that is to be trained on, and draw from it."""
        self._training = [self._examples(data.settings, data.seen) for data in self.datasets]
        return OneOf(self._training, self.config.train.seed)

    def shown(self) -> Batch:
        """Choose analogies to sample while training: of edits that it does not see, where there are such."""
        chosen: dict[str, Analogy] = {}
        # All of one dataset, as they are one batch.
        data = next((data for data in self.datasets if data.unseen), self.datasets[0])
        for analogy in data.unseen or self._training[0].analogies:
            if len(chosen) < self.config.sample.count and analogy.edit not in chosen and _readable(analogy):
                chosen[analogy.edit] = analogy
        analogies = list(chosen.values()) or self._training[0].analogies[: self.config.sample.count]
        return self._examples(data.settings if chosen else self.datasets[0].settings, analogies).batch(analogies)

    def _examples(self, data: DatasetSettings, analogies: Sequence[Analogy]) -> Examples:
        config, basis = self.config, self.config.network.basis
        of_queries = f"{config.model.encoder or basis.external_query_model} {config.model.text_tokens}"
        examples = Examples(
            analogies,
            self._encoders,
            self._vision,
            basis.query_mode if self._vision else None,
            identity=f"{self._encoders.identity} {of_queries}",
            cell=data.resolution,
            cache=self._cache,
            seed=config.train.seed,
            batch_size=config.train.batch_size,
            caption_dropout=data.caption_dropout_rate,
            show_pair=config.train.show_pair,
            sampled=config.train.sampled,
        )
        examples.prepare(self._bar("Encoding", len(analogies)))
        return examples


def _readable(analogy: Analogy) -> bool:
    try:
        return all(load_picture(picture) is not None for picture in analogy.pictures)
    except LoRWebError:
        return False
