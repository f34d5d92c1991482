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
"""Function from (what is done, how much of it) to the progress of it."""


class Dataset(NamedTuple):
    """Hold a dataset's analogies, split by edit."""

    settings: DatasetSettings
    training: list[Analogy]
    """Analogies to train on."""
    held_out: list[Analogy]
    """Analogies of edits that are kept from training."""


@dataclass(frozen=True)
class CombinedSource:
    """Draw each batch from one of several sources, the larger the likelier: batches of one size of picture."""

    sources: Sequence[Examples]
    seed: int

    @property
    def analogies(self) -> list[Analogy]:
        """List the analogies of all sources."""
        return [analogy for source in self.sources for analogy in source.analogies]

    def draw(self, step: int) -> Batch:
        sizes = torch.tensor([float(len(source.analogies)) for source in self.sources])
        chosen = int(torch.multinomial(sizes, 1, generator=generator(self.seed, 3, step)))
        return self.sources[chosen].draw(step)


def find_analogies(config: TrainingConfig) -> list[Dataset]:
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
        found.append(Dataset(data, *split_by_edit(analogies, data.held_out, data.validation_share, config.train.seed)))
    return found


def counted(analogies: Sequence[Analogy]) -> str:
    return f"{len(analogies)} analogies of {len({analogy.edit for analogy in analogies})} edits"


class EncodedDatasets:
    """Encode datasets into a folder that is kept."""

    source: CombinedSource
    """Source of all that is trained on."""

    def __init__(
        self,
        config: TrainingConfig,
        datasets: Sequence[Dataset],
        encoders: Encoders,
        vision: VisionEncoder | None,
        identity: str,
        cache: Path,
        bar: Bar,
    ):
        """vision: None for a basis that routes by activation. cache: the folder; several runs may share it.

        identity: what the numbers of all encoders depend on. Raises LoRWebError as `Examples.prepare` does.
        """
        self.config, self.datasets = config, datasets
        self._encoders, self._vision, self._identity, self._cache, self._bar = encoders, vision, identity, cache, bar
        training = [self._examples(data.settings, data.training) for data in datasets]
        self.source = CombinedSource(training, config.train.seed)
        self._samples = self._choose_samples()

    def samples(self) -> Batch:
        """Make a batch of the analogies to sample while training: of held-out edits, where there are such."""
        return self._samples.batch(self._samples.analogies)

    def _choose_samples(self) -> Examples:
        """Choose one analogy of each of the first edits, as far as their pictures can be read."""
        chosen: dict[str, Analogy] = {}
        trained, count = self.source.sources[0].analogies, self.config.sample.count
        # All of one dataset, as they are one batch.
        data = next((data for data in self.datasets if data.held_out), self.datasets[0])
        for analogy in data.held_out or trained:
            if len(chosen) < count and analogy.edit not in chosen and _readable(analogy):
                chosen[analogy.edit] = analogy
        settings = data.settings if chosen else self.datasets[0].settings
        return self._examples(settings, list(chosen.values()) or trained[:count])

    def _examples(self, data: DatasetSettings, analogies: Sequence[Analogy]) -> Examples:
        config = self.config
        examples = Examples(
            analogies,
            self._encoders,
            self._vision,
            config.network.basis.query_mode if self._vision else None,
            identity=self._identity,
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
