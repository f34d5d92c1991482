"""The inputs of Train Basis that have widgets."""

from __future__ import annotations

from comfy_api.latest import io

from .training_setup import MODES


def data() -> list:
    """List the inputs that say which pictures."""
    return [
        io.String.Input(
            "folder",
            default="",
            tooltip="A folder in ComfyUI's input folder, or in one named under lorweb_datasets in "
            "extra_model_paths.yaml; others only where ComfyUI was started with LORWEB_TRAIN_ANYWHERE=1. In it: "
            "a folder for each edit with NAME_before and NAME_after or with before/ and after/ in it, target/ and "
            "control/ as published, or Relation252K.",
        ),
        io.String.Input(
            "held_out",
            default="",
            optional=True,
            tooltip="Edits that are not trained on, by name or pattern (recolour*), with commas between. "
            "Samples are then made of these.",
        ),
    ]


def settings() -> list:
    """List the inputs of the basis and its training, and of what is seen of it. Defaults are the published ones."""
    return [
        io.Int.Input("loras", default=32, min=1, max=256, tooltip="N, LoRAs in each layer. 1 is a plain LoRA."),
        io.Int.Input("rank", default=4, min=1, max=256, tooltip="r, of each of them."),
        io.Int.Input(
            "keys_dim", default=128, min=1, max=4096, advanced=True, tooltip="D, the width of keys and queries."
        ),
        io.Combo.Input(
            "query_mode",
            advanced=True,
            options=list(MODES),
            default=MODES[0],
            tooltip="What the basis is asked with: a, a' and b each for itself as released, or other views of "
            "them. activation: each layer asks with its own input.",
        ),
        io.Int.Input("steps", default=1000, min=1, max=1_000_000, tooltip="More can be added to a run later."),
        io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="Analogies at a time."),
        io.Int.Input(
            "gradient_accumulation",
            default=1,
            min=1,
            max=1024,
            advanced=True,
            tooltip="Batches that make one step together.",
        ),
        io.Float.Input(
            "learning_rate",
            default=1e-3,
            min=1e-7,
            max=1.0,
            step=1e-7,
            round=False,
            tooltip="Of AdamW, constant; 0.001 as published.",
        ),
        io.Int.Input(
            "resolution",
            default=512,
            min=16,
            max=2048,
            step=16,
            tooltip="Of each picture, a side in pixels; the grid has twice that. Shapes are stretched to it.",
        ),
        io.Boolean.Input(
            "gradient_checkpointing",
            advanced=True,
            default=True,
            tooltip="Much less memory, for a third more time.",
        ),
        io.Int.Input(
            "save_every",
            advanced=True,
            default=250,
            min=1,
            max=1_000_000,
            tooltip="Steps between checkpoints; the last four are kept.",
        ),
        io.Int.Input(
            "sample_every",
            default=100,
            min=0,
            max=1_000_000,
            tooltip="Steps between samples, which the preview shows; 0 for none before the end.",
        ),
        io.Int.Input(
            "seed",
            default=42,
            min=0,
            max=2**32 - 1,
            control_after_generate=False,  # another seed is another training
            tooltip="Of the first values, the noise and the order.",
        ),
    ]
