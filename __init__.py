"""LoRWeB for ComfyUI: the host's entry point."""

import os

import folder_paths
from comfy_api.latest import ComfyExtension

from .nodes import NODES

folder_paths.add_model_folder_path("lorweb", os.path.join(folder_paths.models_dir, "lorweb"))


class LoRWebExtension(ComfyExtension):
    async def get_node_list(self):
        return NODES


async def comfy_entrypoint() -> ComfyExtension:
    return LoRWebExtension()
