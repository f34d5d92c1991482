"""The pictures that the bundled workflows open with, in the host's input folder."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import folder_paths

PICTURES = Path(__file__).parents[2] / "workflows" / "pictures"

log = logging.getLogger(__name__)


def offer_pictures() -> None:
    """Copy the pictures that are not there into the host's input folder, where Load Image alone looks.

    Where that cannot be written to, workflows open without them.
    """
    folder = Path(folder_paths.get_input_directory())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for picture in PICTURES.glob("*.png"):
            if not (folder / picture.name).exists():
                shutil.copyfile(picture, folder / picture.name)
    except OSError as error:
        log.warning("The example pictures of LoRWeB's workflows cannot be copied to %s: %s.", folder, error.strerror)
