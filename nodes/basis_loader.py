from __future__ import annotations

from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import io

from ..lorweb_core import LoRWebError, load_basis
from ..lorweb_core.checkpoint import file_identity, read_checkpoint
from ..lorweb_core.config import find_config
from . import sockets

FOLDER = "lorweb"
AUTO = "auto"


class BasisLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBBasisLoader",
            display_name="LoRWeB Basis Loader",
            category="LoRWeB",
            description="Loads a learned basis of LoRAs (lorweb_model.safetensors) from models/lorweb.",
            inputs=[
                io.Combo.Input(
                    "basis_name",
                    options=_files(".safetensors"),
                    tooltip="The LoRWeB checkpoint, a .safetensors file in models/lorweb. Press R after adding one.",
                ),
                io.Combo.Input(
                    "config_name",
                    options=[AUTO, *_files(".yaml", ".yml")],
                    default=AUTO,
                    tooltip="The training config that says how the basis is routed. auto: the YAML of the same name "
                    "or config.yaml beside the checkpoint; without one the released settings, sizes from the tensors.",
                ),
            ],
            outputs=[sockets.Basis.Output("basis", tooltip="The basis, memory-mapped; for the Analogy Encoder.")],
        )

    @classmethod
    def validate_inputs(cls, basis_name: str) -> bool | str:
        # Said when the prompt is queued. The host itself holds config_name against its list.
        try:
            read_checkpoint(_listed(basis_name, ".safetensors"))
        except LoRWebError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, basis_name: str, config_name: str) -> tuple:
        return tuple(file_identity(path) for path in _paths(basis_name, config_name) if path)

    @classmethod
    def execute(cls, basis_name: str, config_name: str = AUTO) -> io.NodeOutput:
        basis = load_basis(*_paths(basis_name, config_name))
        bar = comfy.utils.ProgressBar(len(basis.layers))

        def progress(done: int, total: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(done, total)

        basis.check_values(progress)
        return io.NodeOutput(basis)


def _files(*suffixes: str) -> list[str]:
    return [name for name in folder_paths.get_filename_list(FOLDER) if name.lower().endswith(suffixes)]


def _paths(basis_name: str, config_name: str) -> tuple[Path, Path | None]:
    """The files of a basis and of its config, if it has one."""
    basis = _listed(basis_name, ".safetensors")
    return basis, find_config(basis) if config_name == AUTO else _listed(config_name, ".yaml", ".yml")


def _listed(name: str, *suffixes: str) -> Path:
    # Only what the host lists is taken: another name may lead out of the folder.
    if name not in _files(*suffixes):
        raise LoRWebError(
            f"{name!r} is not a {suffixes[0]} file in {' or '.join(folder_paths.get_folder_paths(FOLDER))}. "
            "Put it there and press R, or choose one from the list."
        )
    return Path(folder_paths.get_full_path_or_raise(FOLDER, name))
