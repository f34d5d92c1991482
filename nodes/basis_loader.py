"""LoRWeB Basis Loader: a basis from its file."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..lorweb_core import LoRWebError, load_basis
from ..lorweb_core.checkpoint import read_checkpoint
from ..lorweb_core.config import BasisConfig
from ..lorweb_core.errors import named
from ..lorweb_core.files.tensor_files import checkpoint_identity, file_identity, is_shard
from .host import sockets
from .host.checked_node import CheckedNode
from .host.model_files import AUTO, BASES, CHECKPOINTS, CONFIGS, basis_files, listed_file, listed_files
from .host.notes import tell
from .host.progress import progress_bar


class BasisLoader(CheckedNode):
    """Load a learned basis of LoRAs with its config."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBBasisLoader",
            display_name="LoRWeB Basis Loader",
            category="LoRWeB",
            search_aliases=["edit by example", "visual analogy", "load lorweb", "lora basis"],
            description="Loads a learned basis of LoRAs (lorweb_model.safetensors) from models/lorweb.",
            inputs=[
                io.Combo.Input(
                    "basis_name",
                    options=[name for name in listed_files(BASES, *CHECKPOINTS) if not is_shard(name)],
                    tooltip="The LoRWeB checkpoint, a .safetensors file in models/lorweb, or the "
                    ".safetensors.index.json of one in several files. Press R after adding one.",
                ),
                io.Combo.Input(
                    "config_name",
                    options=[AUTO, *listed_files(BASES, *CONFIGS)],
                    default=AUTO,
                    advanced=True,
                    tooltip="The training config that says how the basis is routed. auto: the YAML of the same name "
                    "or config.yaml beside the checkpoint. Without one, sizes are read from the tensors, and the rest "
                    "is as released.",
                ),
            ],
            outputs=[sockets.Basis.Output("basis", tooltip="The memory-mapped basis, for the Analogy Encoder.")],
        )

    @classmethod
    def validate_inputs(cls, basis_name: str) -> bool | str:
        # Said when the prompt is queued. The host itself holds config_name against its list.
        try:
            read_checkpoint(listed_file(BASES, basis_name, *CHECKPOINTS))
        except LoRWebError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, basis_name: str, config_name: str) -> tuple:
        basis, config = basis_files(basis_name, config_name)
        return checkpoint_identity(basis), config and file_identity(config)

    @classmethod
    def execute(cls, basis_name: str, config_name: str = AUTO) -> io.NodeOutput:
        path, config = basis_files(basis_name, config_name)
        basis = load_basis(path, config)
        if config is None:
            tell("LoRWeB Basis Loader", [_without_config(path, basis.config)])
        basis.check_values(progress_bar(len(basis.layers)))
        return io.NodeOutput(basis)


def _without_config(path: Path, taken: BasisConfig) -> str:
    """Say what a basis is taken to be that has no training config."""
    if not taken.external_query:
        how = "each layer's own input is its query"
    else:
        how = f"its query is {taken.query_mode} of {taken.external_query_model}"
    return (
        f"{named(path)} has no training config beside it. Sizes are read from its tensors, and the rest is taken as "
        f"released: {how}. If results are off, put its YAML beside it."
    )
