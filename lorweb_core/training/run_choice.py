"""Which folder a training goes into, where others may be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

from ..files.file_names import check_inside, check_length
from ..files.new_file import check_if_exists
from .run_folder import RunFolder
from .settings.config import TrainingConfig


@contextmanager
def chosen_run(
    config: TrainingConfig, if_exists: str, root: Path, called: str | None = None, identity: str | None = None
) -> Iterator[RunFolder]:
    """Find the folder to train in, numbered if need be, and keep other trainings out of it within.

    A run with the same settings is gone on with, whatever `if_exists` says; if it has all steps already, it is what is
    wanted. Of others, 'number' leaves them alone and 'replace' begins anew in their place. root: the folder that
    nothing is written outside of. called: what messages call it. identity: as for `RunFolder`. Raises LoRWebError if a
    link leads out of it, if the folder cannot be made, if another process trains in it, or if what is there is not to
    be replaced.
    """
    check_if_exists(if_exists)
    first = config.name
    for number in count(1):
        config = config if number == 1 else replace(config, name=f"{first}-{number}")
        path = Path(config.training_folder) / config.name
        check_length(f"{config.name}_{0:09d}.safetensors")
        check_inside(root, path, called)
        numbered = if_exists == "number"
        if numbered and os.path.lexists(path) and not path.is_dir():
            continue
        folder = RunFolder(config, identity)
        if numbered and folder.is_anothers():
            continue
        with folder.locked():
            if not (folder.empty() or folder.goes_on()):
                if numbered:
                    continue
                folder.clear()
            folder.check()
            yield folder
            return
