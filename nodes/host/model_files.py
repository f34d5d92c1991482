"""Files in the pack's models folders, as the host lists them."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...lorweb_core import LoRWebError
from ...lorweb_core.config import find_config
from ...lorweb_core.errors import shown
from ...lorweb_core.files.tensor_files import INDEX_SUFFIX

BASES, MIXTURES, DATASETS, LORAS = "lorweb", "lorweb_mixtures", "lorweb_datasets", "loras"
"""The host's names of the folders for bases, saved mixtures, pictures to train on, and ordinary LoRAs."""

CHECKPOINTS = (".safetensors", INDEX_SUFFIX)
"""Suffixes of a basis's file: whole, or the index of one in several files."""

AUTO = "auto"
"""Name that stands for the config that lies beside a basis."""

CONFIGS = (".yaml", ".yml")
"""Suffixes of the training config beside a basis."""

MIXTURE_SUFFIX = ".safetensors"
"""Suffix of the files that Save Mixture writes."""


def listed_files(folder: str, *suffixes: str) -> list[str]:
    """List the names, with subfolders, of the files in a models folder that have one of these suffixes."""
    return [name for name in folder_paths.get_filename_list(folder) if name.lower().endswith(suffixes)]


def folders(folder: str) -> str:
    """Describe for a message where the files of a models folder may be."""
    return " or ".join(shown(Path(path)) for path in folder_paths.get_folder_paths(folder))


def listed_file(folder: str, name: str, *suffixes: str) -> Path:
    """Find the file of that name in a models folder.

    Raises LoRWebError for a name that the host does not list, which may lead out of the folder.
    """
    if name not in listed_files(folder, *suffixes):
        raise LoRWebError(
            f"{shown(name)} is not a {suffixes[0]} file in {folders(folder)}. "
            "Put it there and press R, or choose one from the list."
        )
    return Path(folder_paths.get_full_path_or_raise(folder, name))


def basis_files(basis_name: str, config_name: str) -> tuple[Path, Path | None]:
    """Find the files of a basis and of its config, if it has one. Raises LoRWebError as `listed_file` does."""
    basis = listed_file(BASES, basis_name, *CHECKPOINTS)
    return basis, find_config(basis) if config_name == AUTO else listed_file(BASES, config_name, *CONFIGS)
