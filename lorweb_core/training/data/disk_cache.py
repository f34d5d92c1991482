"""Tensors that take long to make, kept on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import LoRWebError, shown
from ...files.safetensors_writer import write_all
from ...files.tensor_files import read_tensors

Tensors = dict[str, Tensor]


class DiskCache:
    """Keep tensors in files of their own, named by a digest of all that they were made of: what changes is made anew.

    Nothing is held in memory. Files are whole or not there, so that processes may share a folder.
    """

    def __init__(self, folder: Path):
        """folder: made if it is not there. Raises LoRWebError if that fails."""
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LoRWebError(f"The cache folder {shown(self.folder)} cannot be made ({error.strerror}).") from error

    def path(self, made_of: Any) -> Path:
        """Tell where the tensors made of this are kept. made_of: anything that JSON can say."""
        return self.folder / f"{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]}.safetensors"

    def holds(self, made_of: Any) -> bool:
        return self.path(made_of).is_file()

    def get(self, made_of: Any, make: Callable[[], Tensors]) -> Tensors:
        """Get the tensors made of this, on the CPU; those that are not there, or are damaged, are made and kept.

        Raises LoRWebError if they cannot be written.
        """
        path = self.path(made_of)
        if self.holds(made_of):
            try:
                return read_tensors(path)
            except LoRWebError:
                pass  # what a failing disk left of it, which `make` can replace
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in make().items()}
        write_all(path, tensors, {"format": "pt"})
        return tensors

    def check_room(self, files: int, like: Any) -> None:
        """Raise LoRWebError if the disk has no room for so many files of the size of the one made of `like`."""
        size = files * self.path(like).stat().st_size
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise LoRWebError(
                f"The cache in {shown(self.folder)} takes another {size / 1e9:,.1f} GB, but the disk has "
                f"{free / 1e9:,.1f} GB free. Make room, take fewer analogies per edit or a lower "
                "resolution, or choose another folder."
            )
