from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from comfy_api.latest import io, ui

from ..lorweb_core import LoRABasis, LoRWebError
from ..lorweb_core.pictures.loss_curve import recent_loss, seconds_per_step
from ..lorweb_core.pictures.training_picture import training_picture
from ..lorweb_core.space.usage import Usage, basis_usage
from ..lorweb_core.training.data.batch import Source
from ..lorweb_core.training.progress import describe_end
from ..lorweb_core.training.run_choice import chosen_run
from ..lorweb_core.training.run_folder import RunFolder
from ..lorweb_core.training.session import TrainingSession
from ..lorweb_core.training.settings.config import (
    ModelSettings,
    NetworkSettings,
    SampleSettings,
    SaveSettings,
    TrainingConfig,
    TrainSettings,
)
from ..lorweb_core.training.settings.document import checked_config
from ..lorweb_core.training.trainer import Step
from .host import data_folders, save_path, shared_inputs, sockets, training_inputs
from .host.checked_node import CheckedNode
from .host.model_files import BASES
from .host.notes import show
from .host.training_model import HostBase, HostEncoders
from .host.training_session import HostCallbacks
from .host.training_setup import (
    SHOWN,
    basis_config,
    contents,
    dataset_settings,
    encode_dataset,
    find_dataset,
    optimizer_name,
    run_identity,
)
from .host.vision_encoder import find_encoder

MEASURED = 64
"""Draws that the usage of the basis is told by."""


class TrainBasis(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBTrainBasis",
            display_name="Train Basis",
            category="LoRWeB/training",
            search_aliases=["train lora", "learn edits", "before after", "dataset"],
            description="Learns a basis of LoRAs from pairs of pictures before and after an edit, and saves it in "
            "models/lorweb. Cancel keeps what is learned; the same settings go on from there.",
            inputs=[
                io.Model.Input("model", tooltip="FLUX.1 Kontext. It is not changed."),
                io.Vae.Input("vae", tooltip="FLUX.1's autoencoder (ae.safetensors)."),
                io.Conditioning.Input(
                    "positive", tooltip="The prompt that all analogies are trained with; an empty one will do."
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="The image encoder that the basis will be asked through. Left open, it is loaded from its "
                    "folder, as in the Analogy Encoder. Activation modes need none.",
                ),
                *training_inputs.data(),
                *training_inputs.settings(),
                *save_path.inputs("the run's folder and the basis in it", default="my_basis"),
                shared_inputs.theme(),
            ],
            outputs=[
                sockets.Basis.Output("basis", tooltip="What was learned, loaded from its file."),
                io.Image.Output("samples", tooltip="Strips: a, a', b, b' as the basis makes it, b' of the data."),
                io.String.Output("json", tooltip="Losses, data, and how the basis is used."),
                io.Image.Output("curves", tooltip="The loss, and how much each LoRA is used in each layer."),
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **others) -> str:
        # Pictures may be added to it, or edited.
        try:
            return contents(data_folders.files(data_folders.find_folder(folder or "")))
        except LoRWebError:  # which execute says
            return ""

    @classmethod
    def execute(
        cls,
        model,
        vae,
        positive: list,
        folder: str,
        loras: int,
        rank: int,
        keys_dim: int,
        query_mode: str,
        steps: int,
        batch_size: int,
        gradient_accumulation: int,
        learning_rate: float,
        resolution: int,
        gradient_checkpointing: bool,
        save_every: int,
        sample_every: int,
        seed: int,
        name: str,
        if_exists: str,
        clip_vision=None,
        held_out: str = "",
        theme: str = "dark",
    ) -> io.NodeOutput:
        data = find_dataset(dataset_settings(folder, held_out, resolution), seed)
        path = save_path.run_folder(BASES, name)
        encoders = HostEncoders(model, vae, positive)
        base = HostBase(model, vae)
        wanted = TrainingConfig(
            name=path.name,
            training_folder=path.parent,
            network=NetworkSettings(rank, rank, network_kwargs=basis_config(loras, keys_dim, query_mode)),
            save=SaveSettings(save_every=save_every),
            datasets=(data.settings,),
            train=TrainSettings(
                batch_size=batch_size,
                steps=steps,
                gradient_accumulation_steps=gradient_accumulation,
                gradient_checkpointing=gradient_checkpointing,
                optimizer=optimizer_name(base.device),
                lr=learning_rate,
                dtype="fp32" if base.dtype == torch.float32 else "bf16",
                seed=seed,
            ),
            model=ModelSettings(quantize=False),
            sample=SampleSettings(
                sample_every=sample_every,
                guidance_scale=float(positive[0][1].get("guidance", 3.5)),
                seed=seed,
                count=SHOWN,
            ),
        )
        with chosen_run(
            checked_config(wanted, "Train Basis"),
            if_exists,
            save_path.root(BASES),
            f"models/{BASES}",
            run_identity(encoders, data.training),
        ) as run:
            config = run.config
            needed = config.network.basis.encoder
            encoder = find_encoder(needed, clip_vision) if needed else None
            encoded = encode_dataset(config, data, encoders, encoder)
            with torch.inference_mode(False), torch.enable_grad():
                callbacks = HostCallbacks(run, theme)
                session = TrainingSession(
                    run, base, encoded.source, encoded.samples(), callbacks, samples_together=True
                )
                basis = session.run()
                usage = _usage(basis, encoded.source)
            run.write_page(usage)
            losses = run.losses()
            show(describe_end(losses, run.basis_file.name))
        edits_held_out = sorted({analogy.edit for analogy in data.held_out})
        image, curves = torch.cat(session.strips)[None], training_picture(losses, usage, theme)[None]
        return io.NodeOutput(
            basis,
            image,
            _report(run, losses, len(encoded.source.analogies), edits_held_out, usage),
            curves,
            ui=ui.PreviewImage(image, cls=cls),
        )


def _report(run: RunFolder, losses: Sequence[Step], analogies: int, held_out: list[str], usage: Usage | None) -> str:
    report = {
        "folder": str(run.path),
        "file": run.basis_file.name,
        "steps": losses[-1].number,
        "loss": {"recent": recent_loss(losses), "all": [float(f"{step.loss:.6g}") for step in losses]},
        "seconds_per_step": seconds_per_step(losses),
        "analogies": analogies,
        "held_out": held_out,
        "usage": usage and usage.described(),
    }
    return json.dumps(report, indent=1)


def _usage(basis: LoRABasis, source: Source) -> Usage | None:
    """Measure the usage on analogies as training draws them; None where only the forward pass has coefficients."""
    if not basis.config.external_query:
        return None
    return basis_usage(basis, torch.cat([source.draw(step).query for step in range(MEASURED)]))
