"""Prune Basis: a basis without its unused LoRAs."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from comfy_api.latest import io

from ..lorweb_core import LoRABasis, LoRWebError, Mixture
from ..lorweb_core.basis_file import is_written_basis
from ..lorweb_core.errors import named, shown
from ..lorweb_core.files.tensor_files import file_identity
from ..lorweb_core.pictures.share_picture import draw_shares
from ..lorweb_core.space.fingerprint import fingerprint
from ..lorweb_core.space.mixture_file import load_mixture, read_metadata
from ..lorweb_core.space.pruning import Pruned, carry_over, prune_basis
from .host import save_path, shared_inputs, sockets
from .host.checked_node import CheckedNode
from .host.model_files import BASES, MIXTURE_SUFFIX, MIXTURES, folders, listed_file, listed_files
from .host.previews import with_picture
from .host.progress import progress_bar

log = logging.getLogger(__name__)


class PruneBasis(CheckedNode):
    """Make a smaller basis without the LoRAs that the mixtures hardly use."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBPruneBasis",
            display_name="Prune Basis",
            category="LoRWeB/basis",
            search_aliases=["smaller basis", "shrink basis"],
            description="Makes a smaller basis, without the LoRAs that your mixtures hardly use, and saves it in "
            "models/lorweb. New analogies are routed among the LoRAs that are left.",
            inputs=[
                shared_inputs.basis(more="Its file stays as it is."),
                sockets.Mixture.Input(
                    "mixtures",
                    optional=True,
                    tooltip="What the basis must still be able to do: a mixture of it, a batch, or a list such as "
                    "Mixture Blend's sweep.",
                ),
                io.String.Input(
                    "saved_mixtures",
                    default="",
                    tooltip="A subfolder of models/lorweb_mixtures: all mixtures of this basis that are saved there "
                    "count too. A dot means the whole folder, and nothing means none.",
                ),
                io.Float.Input(
                    "share",
                    default=0.01,
                    min=0.0001,
                    max=1.0,
                    step=0.001,
                    round=0.0001,
                    tooltip="A LoRA is dropped if its part of the change is below this share in every mixture: 0.01 "
                    "is one hundredth.",
                ),
                *save_path.inputs("the smaller basis and its config", default="pruned_basis"),
                shared_inputs.theme(),
            ],
            outputs=[
                sockets.Basis.Output("basis", tooltip="The smaller basis, loaded from its file."),
                io.String.Output("json", tooltip="Which LoRAs were kept and dropped, with their largest shares."),
                io.Image.Output("image", tooltip="The largest share of each LoRA, and the line that kept ones reach."),
                sockets.Mixture.Output(
                    "mixtures",
                    is_output_list=True,
                    tooltip="The mixtures given, then the saved ones, on the smaller basis: what follows "
                    "runs once for each.",
                ),
            ],
            is_output_node=True,
            is_input_list=True,
        )

    @classmethod
    def fingerprint_inputs(cls, saved_mixtures: Sequence[str] = ("",), **others) -> list:
        return [file_identity(path) for path in _saved(saved_mixtures[0])]

    @classmethod
    def execute(
        cls,
        basis: Sequence[LoRABasis],
        share: Sequence[float],
        name: Sequence[str],
        if_exists: Sequence[str],
        mixtures: Sequence[Mixture] = (),
        saved_mixtures: Sequence[str] = ("",),
        theme: Sequence[str] = ("dark",),
    ) -> io.NodeOutput:
        # Every input is a list, of which only `mixtures` has more than one.
        (basis, *_), (share, *_), (name, *_), (if_exists, *_), (theme, *_) = basis, share, name, if_exists, theme
        saved, skipped = _load(_saved(saved_mixtures[0], required=True), basis)
        used = [*mixtures, *saved]
        with save_path.saving(BASES, name, if_exists, is_written_basis) as path:
            pruned = prune_basis(basis, used, path, share, progress_bar(len(basis.layers)))
        report = {"file": path.name, "mixtures": len(used), "skipped": skipped, "share": share, **_loras(pruned)}
        image = draw_shares(pruned.shares, share, theme)[None]
        carried = [carry_over(mixture, pruned.kept, pruned.basis) for mixture in used]
        return with_picture(cls, image, pruned.basis, json.dumps(report, indent=1), image, carried)


def _loras(pruned: Pruned) -> dict[str, dict[int, float]]:
    shares = {index: round(share, 6) for index, share in enumerate(pruned.shares.tolist())}
    return {
        "kept": {index: shares[index] for index in pruned.kept},
        "dropped": {index: share for index, share in shares.items() if index not in pruned.kept},
    }


def _saved(folder: str, required: bool = False) -> list[Path]:
    """List the saved mixtures in a subfolder, among those that the host lists: another folder's never are.

    Raises LoRWebError if some are required and there are none.
    """
    folder = folder.strip().replace("\\", "/")
    if not folder:
        return []
    names = listed_files(MIXTURES, MIXTURE_SUFFIX)
    found = [name for name in names if PurePosixPath(name.replace("\\", "/")).is_relative_to(PurePosixPath(folder))]
    if required and not found:
        raise LoRWebError(
            f"saved_mixtures is {shown(folder)}, but no saved mixture is in that subfolder of "
            f"{folders(MIXTURES)}. Give a subfolder of it, '.' for all, or nothing."
        )
    return [listed_file(MIXTURES, name, MIXTURE_SUFFIX) for name in found]


def _load(paths: list[Path], basis: LoRABasis) -> tuple[list[Mixture], list[str]]:
    """Load the mixtures of this basis; returns them and the names of the files of others."""
    mixtures, skipped = [], []
    for path in paths:
        if read_metadata(path)["fingerprint"] == fingerprint(basis):
            mixtures.append(load_mixture(path, basis))
        else:
            skipped.append(path.name)
    if skipped:
        log.warning("%s: mixtures of other bases are left out: %s.", named(basis.name), shown(skipped))
    return mixtures, skipped
