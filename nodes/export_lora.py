"""Export as LoRA: a mixture for Load LoRA and other tools."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..lorweb_core import Mixture
from ..lorweb_core.export.lora_export import DTYPES, MODES, error_by_rank, export_lora
from ..lorweb_core.export.lora_file import is_exported
from ..lorweb_core.pictures.export_picture import export_picture
from .host import save_path, shared_inputs
from .host.checked_node import CheckedNode
from .host.model_files import LORAS
from .host.previews import with_picture
from .host.progress import progress_bar


class ExportLoRA(CheckedNode):
    """Write a mixture as an ordinary LoRA file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBExportLoRA",
            display_name="Export as LoRA",
            category="LoRWeB/mixtures",
            search_aliases=["save lora", "lora mix", "extract lora"],
            description="Writes the mixture as an ordinary LoRA into models/loras, for Load LoRA and every other FLUX "
            "tool: ComfyUI, diffusers, Forge, Nunchaku.",
            inputs=[
                shared_inputs.mixture(more="It must be of one analogy."),
                *save_path.inputs("the LoRA in models/loras", "lorweb/edit"),
                shared_inputs.choice(
                    "mode",
                    MODES,
                    "exact: all of the mixture, in a large file of high rank. rank: every layer compressed to one "
                    "rank. error: each layer compressed to the least rank that leaves out no more than that share.",
                ),
                io.Int.Input(
                    "rank", default=16, min=1, max=4096, tooltip="The rank for mode rank: 16 is usual for LoRAs."
                ),
                io.Float.Input(
                    "error",
                    default=0.1,
                    min=0.0,
                    max=0.99,
                    step=0.001,
                    round=False,
                    tooltip="The share of each layer's change that may be left out in mode error, 0.1 for 10 %.",
                ),
                shared_inputs.strength(
                    "The strength to fold in: the LoRA at strength 1 is then the mixture at this strength."
                ),
                shared_inputs.choice(
                    "dtype",
                    DTYPES,
                    "The file's number format. float16 is exact to 0.02 %, bfloat16 to 0.2 %; float32 makes the file "
                    "twice as large.",
                    advanced=True,
                ),
                shared_inputs.theme(),
            ],
            outputs=[
                io.Image.Output(
                    "report", tooltip="Error against rank, where this file stands, and in which layers its error is."
                ),
                io.String.Output("json", tooltip="The same in numbers, per layer."),
                io.String.Output("lora_name", tooltip="The name that Load LoRA lists the file by."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        mixture: Mixture,
        name: str,
        if_exists: str = "number",
        mode: str = "exact",
        rank: int = 16,
        error: float = 0.1,
        strength: float = 1.0,
        dtype: str = "float16",
        theme: str = "dark",
    ) -> io.NodeOutput:
        layers = len(mixture.basis.layers)
        with save_path.saving(LORAS, name, if_exists, is_exported) as path:
            report = export_lora(mixture, path, mode, rank, error, strength, dtype, progress=progress_bar(layers))
        if not report.error_by_rank:
            report = replace(report, error_by_rank=error_by_rank(mixture, progress_bar(layers)))
        image = export_picture(report, theme)[None]
        listed = str(path.relative_to(save_path.root(LORAS)))
        return with_picture(cls, image, image, report.to_json(), listed)
