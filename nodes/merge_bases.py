"""Merge Bases: two bases as one."""

from __future__ import annotations

from comfy_api.latest import io

from ..lorweb_core import LoRABasis
from ..lorweb_core.basis_file import is_written_basis
from ..lorweb_core.space.merging import merge_bases
from .host import save_path, shared_inputs, sockets
from .host.checked_node import CheckedNode
from .host.model_files import BASES
from .host.progress import progress_bar


class MergeBases(CheckedNode):
    """Merge two bases into one and save it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBMergeBases",
            display_name="Merge Bases",
            category="LoRWeB/basis",
            search_aliases=["lora mix", "combine bases"],
            description="Makes one basis of two of the same layout and saves it in models/lorweb. Each part still "
            "chooses among its own LoRAs as it does alone, and their changes add up.",
            inputs=[
                shared_inputs.basis("basis_1", "Its LoRAs come first."),
                sockets.Basis.Input(
                    "basis_2",
                    tooltip="Another, trained for the same model with the same kind of query, encoder and heads; "
                    "ranks, widths of keys and dtypes may differ.",
                ),
                *save_path.inputs("the merged basis and its config", default="merged_basis"),
            ],
            outputs=[sockets.Basis.Output("basis", tooltip="The merged basis, loaded from its file.")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, basis_1: LoRABasis, basis_2: LoRABasis, name: str, if_exists: str = save_path.IF_EXISTS[0]
    ) -> io.NodeOutput:
        with save_path.saving(BASES, name, if_exists, is_written_basis) as path:
            return io.NodeOutput(merge_bases(basis_1, basis_2, path, progress_bar(len(basis_1.layers))))
