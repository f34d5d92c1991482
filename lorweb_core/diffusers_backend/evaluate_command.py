"""`python -m lorweb_core evaluate`: ways of making b' on diffusers' FLUX.1 Kontext, measured."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from ..basis import load_basis
from ..errors import LoRWebError, shown
from ..evaluation.arguments import EvaluationRequest
from ..evaluation.judge import NO_JUDGE, STAND_IN, Address, Judge, LocalJudge, RemoteJudge, StandIn, is_address
from ..evaluation.metrics import Clip, Lpips
from ..evaluation.run import Evaluation, run
from ..evaluation.run_folder import EvaluationFolder
from ..evaluation.settings import NONE, EvaluationSettings
from ..evaluation.tasks import Item, draw_items
from ..files.tensor_files import regular_file
from ..space.fingerprint import fingerprint
from .evaluated_models import KontextModels
from .pipeline import check_model, find_device
from .terminal import Bars

log = logging.getLogger(__name__)


def run_evaluation(request: EvaluationRequest) -> Path:
    """Evaluate, or go on with an evaluation that was interrupted; returns its page.

    What can be wrong with the settings, the data or the folder is found before the model is loaded. Raises LoRWebError
    for bad input; after Ctrl-C all that was made and measured is kept.
    """
    settings = request.settings
    place = find_device(request.device)
    log.info("Reading the basis")
    basis = load_basis(settings.basis, settings.config)
    basis.check_values()
    check_model(settings.model, basis)
    if "fitted" in settings.ways and not basis.config.external_query:
        raise LoRWebError("The way fitted needs a basis that is routed by images; this one has nothing to fit.")
    items = draw_items(settings)
    log.info("%d analogies of %d tasks, made in %d ways", len(items), _tasks(items), len(settings.ways))
    contents = {"basis's contents": fingerprint(basis), "analogies": _digest_of(items)}
    if settings.lora is not None:
        contents["LoRA's contents"] = _digest(settings.lora)
    folder, bars = EvaluationFolder(request.out), Bars()
    package, _, _ = __package__.rpartition(".")
    with folder.locked(), logging_redirect_tqdm([logging.getLogger(package)]):
        if folder.begin(settings.document() | contents):
            log.info("Going on with what is in %s", shown(request.out))
        models = KontextModels(request, basis, folder, place, bars)
        evaluation = Evaluation(
            settings,
            items,
            folder,
            models,
            lambda: None if settings.lpips == NONE else Lpips(settings.lpips, settings.lpips_weights, place),
            lambda: None if settings.clip == NONE else Clip(settings.clip, place),
            lambda: _judge(settings, models, place),
            bars.advance,
        )
        try:
            return run(evaluation)
        except torch.OutOfMemoryError as error:
            raise LoRWebError(
                "The GPU ran out of memory. Begin again with fewer megapixels and another --out; while fitting, "
                "--quantize or --offload help too, and the same command goes on."
            ) from error
        except KeyboardInterrupt:
            log.info("Interrupted. The same command goes on from what is kept.")
            raise
        finally:
            bars.close()


def _judge(settings: EvaluationSettings, models: KontextModels, place: torch.device) -> Judge | None:
    if settings.judge == NO_JUDGE:
        return None
    if settings.judge == STAND_IN:
        return StandIn()
    models.let_go()
    if is_address(settings.judge):
        address = Address(settings.judge, settings.judge_model, settings.judge_timeout, settings.judge_retries)
        return RemoteJudge(address)
    log.info("Loading the judge")
    return LocalJudge(settings.judge, place)


def _tasks(items: list[Item]) -> int:
    return len({item.task for item in items})


def _digest_of(items: list[Item]) -> str:
    """Tell a draw from others: by its pictures' names, whatever folder they lie in."""
    drawn = [
        (item.key, item.prompt, [(picture.path.name, picture.part, picture.parts) for picture in item.analogy.pictures])
        for item in items
    ]
    return hashlib.sha256(repr(drawn).encode(errors="surrogatepass")).hexdigest()


def _digest(path: str) -> str:
    regular_file(path, "LoRA")
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
