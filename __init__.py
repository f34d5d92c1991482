"""LoRWeB for ComfyUI: the host's entry point."""

import os

import folder_paths
from comfy_api.latest import ComfyExtension

from .nodes import NODES

for folder in ("lorweb", "lorweb_mixtures", "lorweb_datasets"):
    folder_paths.add_model_folder_path(folder, os.path.join(folder_paths.models_dir, folder))


class LoRWebExtension(ComfyExtension):
    async def get_node_list(self):
        return NODES


async def comfy_entrypoint() -> ComfyExtension:
    return LoRWebExtension()
