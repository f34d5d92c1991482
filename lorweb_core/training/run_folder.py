"""What a training leaves on the disk: checkpoints, the state to go on from, samples, and its losses."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from ..basis import LoRABasis
from ..basis_file import is_written_basis, write_basis
from ..checkpoint import BasisLayer
from ..errors import LoRWebError, shown
from ..files.atomic import is_part, replacing
from ..files.file_names import check_inside
from ..files.image_file import write_png
from ..files.locks import held
from ..files.new_file import check_ours, written_metadata
from ..query_network import QueryNetwork
from ..space.usage import Usage
from .loss_log import append_loss, begins_as_log, read_losses, write_losses
from .report import PAGE, write_summary
from .run_state import Damaged, OtherLayers, damaged, read_state, write_state
from .settings.config import TrainingConfig
from .settings.document import config_fingerprint, training_document
from .trainer import Step, Training

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}

LOCK = "run.lock"
"""There while a process trains in the folder."""
STATE, LOSSES, SAMPLES, CONFIG = "resume.pt", "losses.csv", "samples", "config.yaml"

_SAMPLE = re.compile(r"\d{9}(_\d+)?\.png")


class RunFolder:
    """Keep a training in `<training_folder>/<name>`.

    Its basis is `<name>.safetensors` there, or `<name>_000000250.safetensors` after 250 steps.
    """

    def __init__(self, config: TrainingConfig, identity: str | None = None):
        """identity: what a run is of, where the model's name in the config does not tell; see `config_fingerprint`."""
        self.config = config
        self.path = Path(config.training_folder) / config.name
        self.state_file = self.path / STATE
        self.losses_file = self.path / LOSSES
        self.samples_folder = self.path / SAMPLES
        self.config_file = self.path / CONFIG
        self.page_file = self.path / PAGE
        self.basis_file = self.path / f"{config.name}.safetensors"
        self.cache_folder = self.path.parent / "cache"
        """For what is encoded of the data, which runs beside each other share."""
        self._fingerprint = config_fingerprint(config, identity)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:  # ValueError for characters that no path has
            why = error.strerror if isinstance(error, OSError) else error
            raise LoRWebError(
                f"{shown(self.path)}: the folder cannot be made ({why}). Give the training another name."
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other trainings out of the folder, in this process and in others; ended ones keep nobody out.

        Raises LoRWebError if one is in it, or if nothing can be written there.
        """
        with ExitStack() as stack:
            try:
                mine = stack.enter_context(held(self.path / LOCK))
            except OSError as error:
                raise LoRWebError(f"{shown(self.path)} cannot be written ({error.strerror or error}).") from error
            if not mine:
                raise LoRWebError(
                    f"{shown(self.path)} has a training in it that another process is at. Wait until it has ended, or "
                    f"give another name. If there is none, delete {LOCK} in it."
                )
            yield

    def check(self) -> None:
        """Raise what `resume` would, but for the model, which is not there yet; nothing large is read."""
        self._check_samples()
        self.losses()
        if os.path.lexists(self.state_file):
            self._state(mmap=True)

    def resume(self, training: Training) -> bool:
        """Go on from the state that is there; returns whether there is one.

        Raises LoRWebError if it is another config's or another model's, or if it or the losses cannot be read.
        """
        if not os.path.lexists(self.state_file):
            # What was logged by a run that never saved a state is of no use to the one that begins now.
            self._keep_losses(0)
            return False
        state = self._state()
        self.losses()
        try:
            training.restore(state)
        except OtherLayers as error:
            raise LoRWebError(
                f"{shown(self.state_file)} is the state of a basis for other layers: the model, "
                f"{shown(self.config.model.name_or_path)}, is not the one it was begun with. Give that one, or another "
                "name."
            ) from error
        except Damaged as error:
            raise damaged(self.state_file) from error
        self._keep_losses(training.done)
        return True

    def empty(self) -> bool:
        """Tell whether there is nothing here but what locks it, and what ended writers have left."""
        return all(path.name == LOCK or is_part(path.name) for path in self.path.iterdir())

    def goes_on(self) -> bool:
        """Tell whether an undamaged run of the same config is here, with no more steps done than are wanted."""
        try:
            losses, done = self.losses(), self._state(mmap=True)["done"]
        except LoRWebError:
            return False
        return bool(losses) and losses[0].number <= done <= self.config.train.steps

    def is_anothers(self) -> bool:
        """Tell whether an undamaged run of another config is here."""
        try:
            return read_state(self.state_file, mmap=True).config != self._fingerprint
        except LoRWebError:
            return False

    def clear(self) -> None:
        """Remove what a run has left here, all but its basis, for another to begin in its place.

        Raises LoRWebError, before anything is removed, if no run has left what is here, or if the basis is another's.
        """
        if not (begins_as_log(self.losses_file) or self._has_state()):
            raise LoRWebError(
                f"{shown(self.path)} has neither the state nor the losses of a training, so nothing in it is replaced. "
                "Choose another name, or move it away."
            )
        check_ours(self.basis_file, is_written_basis)
        self._check_samples()
        left = [self.state_file, self.losses_file]
        left += [path for path in self.samples() if _SAMPLE.fullmatch(path.name)]
        for path in self._checkpoints():
            if not path.is_symlink() and is_written_basis(written_metadata(path)):
                left += [path, path.with_suffix(".yaml")]
        try:
            for path in left:
                if path.is_file() and not path.is_symlink():
                    path.unlink()
        except OSError as error:
            raise LoRWebError(f"{shown(path)} cannot be removed ({error.strerror or error}).") from error

    def keep_config(self) -> None:
        """Write the config, whole. Raises LoRWebError if the disk has no room; the old one stays then."""
        with replacing(self.config_file) as file:
            file.write(yaml.safe_dump(training_document(self.config), sort_keys=False).encode())

    def write_page(self, usage: Usage | None) -> Path:
        """Write the page that shows how the training went, and return it; see `write_summary`."""
        return write_summary(self.path, self.config, self.losses(), usage, self.samples())

    def keep_samples(self, done: int, strips: Sequence[Tensor], together: bool = False) -> None:
        """Write what samples look like after so many steps: a picture for each strip, or one of all.

        strips: (H, W, 3), float in 0–1; together, of one width. Raises LoRWebError, and leaves older pictures, if they
        cannot be written.
        """
        ends = {"": torch.cat(list(strips))} if together else {f"_{i}": strip for i, strip in enumerate(strips)}
        for end, picture in ends.items():
            write_png(picture, self.sample_file(f"{done:09d}{end}.png"))

    def sample_file(self, name: str) -> Path:
        """Find where to write a picture of samples; its folder exists then. Raises LoRWebError if it cannot be made."""
        self._check_samples()
        try:
            self.samples_folder.mkdir(exist_ok=True)
        except OSError as error:
            raise LoRWebError(f"{shown(self.samples_folder)} cannot be made ({error.strerror}).") from error
        return self.samples_folder / name

    def samples(self) -> list[Path]:
        """List the pictures of samples, the oldest first."""
        return sorted(self.samples_folder.glob("*.png"))

    def _check_samples(self) -> None:
        """Raise LoRWebError if samples would be written elsewhere, or not at all."""
        check_inside(self.path, self.samples_folder, f"the run's folder {shown(self.path)}")
        if self.samples_folder.exists() and not self.samples_folder.is_dir():
            raise LoRWebError(f"{shown(self.samples_folder)} is no folder. Move it away, or give another name.")

    def _has_state(self) -> bool:
        try:
            return bool(read_state(self.state_file, mmap=True))
        except LoRWebError:
            return False

    def _state(self, mmap: bool = False) -> dict[str, Any]:
        kept = read_state(self.state_file, mmap)
        if kept.config != self._fingerprint:
            raise LoRWebError(
                f"{shown(self.state_file)} is the state of a training with another config. Go on with that one, "
                f"{shown(self.config_file)}, or give another name."
            )
        return kept.state

    def save(self, training: Training, final: bool = False) -> LoRABasis:
        """Write a checkpoint and the state to go on from, and then delete older checkpoints beyond those to keep.

        Raises LoRWebError, and leaves what was there, if the disk has no room.
        """
        name = self.config.name if final else f"{self.config.name}_{training.done:09d}"
        dtype = _DTYPES[self.config.save.dtype]

        def stored(layer: BasisLayer) -> BasisLayer:
            A, B, keys = (values.to("cpu", dtype) for values in layer[:3])
            projection = None if layer.projection is None else layer.projection.to("cpu", dtype)
            return BasisLayer(A, B, keys, projection, layer.scale)

        document = training_document(self.config)
        with training.averaged() as basis:
            network = basis.published_network()
            saved = write_basis(
                self.path / f"{name}.safetensors",
                {layer: [values] for layer, values in basis.published().items()},
                stored,
                basis.config,
                {"training_config": json.dumps(document), "steps": str(training.done)},
                document=document,
                query_network=network and QueryNetwork(*(values.to("cpu", dtype) for values in network)),
            )
        self.save_state(training)
        self._drop_old()
        return saved

    def save_state(self, training: Training) -> None:
        """Write what to go on from. Raises LoRWebError if the disk has no room; the old one stays then."""
        write_state(self.state_file, self._fingerprint, training.state())

    def log(self, step: Step) -> None:
        """Log a step. Raises LoRWebError if the disk has no room."""
        append_loss(self.losses_file, step)

    def losses(self) -> list[Step]:
        """Read all steps logged so far. Raises LoRWebError if they are damaged."""
        return read_losses(self.losses_file)

    def _keep_losses(self, done: int) -> None:
        """Drop the steps after the state that is gone on from, which will be done again."""
        if os.path.lexists(self.losses_file):
            write_losses(self.losses_file, [step for step in self.losses() if step.number <= done])

    def _checkpoints(self) -> list[Path]:
        """List those that are numbered, the oldest first."""
        return sorted(self.path.glob(f"{_escaped(self.config.name)}_{'[0-9]' * 9}.safetensors"))

    def _drop_old(self) -> None:
        for path in self._checkpoints()[: -self.config.save.max_step_saves_to_keep]:
            with suppress(OSError):  # else at the next save
                path.unlink()
                path.with_suffix(".yaml").unlink(missing_ok=True)


def _escaped(name: str) -> str:
    """Escape a name for glob, in which brackets mean something."""
    return name.replace("[", "[[]")
