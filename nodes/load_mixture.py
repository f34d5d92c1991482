from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..lorweb_core import LoRABasis, LoRWebError
from ..lorweb_core.space.mixture_file import load_mixture, read_metadata
from ..lorweb_core.tensor_files import FileIdentity, file_identity
from . import sockets
from .save_mixture import FOLDER, shown


class LoadMixture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBLoadMixture",
            display_name="Load Mixture",
            category="LoRWeB",
            description="Loads a mixture that Save Mixture saved, onto the basis that it was made with.",
            inputs=[
                sockets.Basis.Input(
                    "basis", tooltip="The basis that the mixture was made with; of another is refused."
                ),
                io.Combo.Input(
                    "mixture_name",
                    options=_files(),
                    tooltip="A file in models/lorweb_mixtures. Press R after adding one.",
                ),
            ],
            outputs=[sockets.Mixture.Output("mixture", tooltip="For Mixed LoRA Apply.")],
        )

    @classmethod
    def validate_inputs(cls, mixture_name: str) -> bool | str:
        try:
            read_metadata(_listed(mixture_name))
        except LoRWebError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, mixture_name: str, **others) -> FileIdentity:
        return file_identity(_listed(mixture_name))

    @classmethod
    def execute(cls, basis: LoRABasis, mixture_name: str) -> io.NodeOutput:
        mixture = load_mixture(_listed(mixture_name), basis)
        return shown(cls, mixture, mixture)


def _files() -> list[str]:
    return [name for name in folder_paths.get_filename_list(FOLDER) if name.lower().endswith(".safetensors")]


def _listed(name: str) -> Path:
    # Only what the host lists is taken: another name may lead out of the folder.
    if name not in _files():
        raise LoRWebError(
            f"{name!r} is not in {' or '.join(folder_paths.get_folder_paths(FOLDER))}. Save a mixture there with Save "
            "Mixture and press R, or choose one from the list."
        )
    return Path(folder_paths.get_full_path_or_raise(FOLDER, name))
