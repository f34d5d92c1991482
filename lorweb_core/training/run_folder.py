"""What a training leaves on the disk: checkpoints, the state to go on from, and its losses."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import torch

from ..basis import LoRABasis
from ..checkpoint import BasisLayer
from ..errors import LoRWebError
from ..space.basis_file import write_basis
from ..space.saved_file import replacing
from .settings import TrainingConfig
from .settings_file import config_fingerprint, training_document
from .trainer import Step, Training

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class RunFolder:
    """`<training_folder>/<name>` with `<name>.safetensors`, or `<name>_000000250.safetensors` after 250 steps."""

    def __init__(self, config: TrainingConfig):
        self.config = config
        self.path = Path(config.training_folder) / config.name
        self.state_file = self.path / "resume.pt"
        self.losses_file = self.path / "losses.csv"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LoRWebError(f"{self.path}: the folder cannot be made ({error.strerror}).") from error

    def check(self) -> None:
        """Raise what `resume` would, but for the model, which is not there yet; nothing large is read."""
        if self.state_file.exists():
            self._state(mmap=True)

    def resume(self, training: Training) -> bool:
        """Go on from the state that is there; returns whether there is one.

        Raises LoRWebError if it is another config's or another model's, or if it cannot be read.
        """
        if not self.state_file.exists():
            # What was logged by a run that never saved a state is of no use to the one that begins now.
            self._keep_losses(0)
            return False
        state = self._state()
        try:
            training.restore(state)
        except (RuntimeError, ValueError, KeyError) as error:
            raise LoRWebError(
                f"{self.state_file} is the state of a basis for other layers: the model, "
                f"{self.config.model.name_or_path}, is not the one it was begun with. Give that one, or another name."
            ) from error
        self._keep_losses(training.done)
        return True

    def _state(self, mmap: bool = False) -> dict[str, Any]:
        try:
            kept = torch.load(self.state_file, map_location="cpu", weights_only=True, mmap=mmap)
            told, state = kept["config"], kept["state"]
        except Exception as error:  # torch raises what its unpickler and its archive reader happen to
            # What it says then is of its own options, one of them unsafe.
            raise LoRWebError(
                f"{self.state_file} cannot be read: it is damaged, or no state of a training. Delete it to begin anew, "
                "or give another name."
            ) from error
        if told != config_fingerprint(self.config):
            raise LoRWebError(
                f"{self.state_file} is the state of a training with another config. Go on with that one, "
                f"{self.path / 'config.yaml'}, or give another name."
            )
        return state

    def save(self, training: Training, final: bool = False) -> LoRABasis:
        """A checkpoint and the state to go on from; older checkpoints beyond those to keep are deleted after that.

        Raises LoRWebError, and leaves what was there, if the disk has no room.
        """
        name = self.config.name if final else f"{self.config.name}_{training.done:09d}"
        dtype = _DTYPES[self.config.save.dtype]

        def stored(layer: BasisLayer) -> BasisLayer:
            tensors = (None if values is None else values.to("cpu", dtype) for values in layer[:4])
            return BasisLayer(*tensors, layer.scale)

        document = training_document(self.config)
        with training.averaged() as basis:
            saved = write_basis(
                self.path / f"{name}.safetensors",
                {layer: [values] for layer, values in basis.published().items()},
                stored,
                basis.config,
                {"training_config": json.dumps(document), "steps": str(training.done)},
                document=document,
            )
        self.save_state(training)
        self._drop_old()
        return saved

    def save_state(self, training: Training) -> None:
        kept = {"config": config_fingerprint(self.config), "state": training.state()}
        with replacing(self.state_file) as file:
            torch.save(kept, file)

    def log(self, step: Step) -> None:
        """Raises LoRWebError if the disk has no room."""
        new = not self.losses_file.exists()
        try:
            with self.losses_file.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([Step._fields, step] if new else [step])
        except OSError as error:
            raise LoRWebError(f"{self.losses_file} could not be written ({error.strerror or error}).") from error

    def losses(self) -> list[Step]:
        """All steps logged so far."""
        if not self.losses_file.exists():
            return []
        with self.losses_file.open(newline="", encoding="utf-8") as file:
            # A last line without an end was cut short, by a full disk or a crash.
            rows = list(csv.reader(line for line in file if line.endswith("\n")))[1:]
        return [Step(int(number), *map(float, rest)) for number, *rest in rows]

    def _keep_losses(self, done: int) -> None:
        """Steps after the state that is gone on from will be done again."""
        if not self.losses_file.exists():
            return
        kept, text = [step for step in self.losses() if step.number <= done], io.StringIO(newline="")
        csv.writer(text).writerows([Step._fields, *kept])
        with replacing(self.losses_file) as file:
            file.write(text.getvalue().encode())

    def _drop_old(self) -> None:
        numbered = sorted(self.path.glob(f"{_escaped(self.config.name)}_{'[0-9]' * 9}.safetensors"))
        for path in numbered[: -self.config.save.max_step_saves_to_keep]:
            path.unlink()
            path.with_suffix(".yaml").unlink(missing_ok=True)


def _escaped(name: str) -> str:
    """For glob, in which brackets mean something."""
    return name.replace("[", "[[]")
