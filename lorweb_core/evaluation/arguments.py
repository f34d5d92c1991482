"""Read the options of the command `evaluate`."""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from ..arguments import a_path, a_text
from ..errors import LoRWebError, shown
from ..files.tensor_files import regular_file
from ..grid import FITS
from ..layout import SAMPLED
from ..training.data.pictures_on_disk import AUTO, FOLDER_LAYOUTS
from .judge import KEY, check_judge
from .settings import LPIPS_NETS, NONE, PROMPTS, EvaluationSettings, Group
from .ways import WAYS

_SETTINGS = EvaluationSettings  # whose attributes are the defaults


class EvaluationRequest(NamedTuple):
    """Hold what is evaluated, and where it goes."""

    settings: EvaluationSettings
    out: Path
    device: str | None
    quantize: bool
    offload: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `evaluate` to a parser."""
    add = parser.add_argument
    ways = "; ".join(f"{name}: {way.help}" for name, way in WAYS.items())
    add("--data", type=a_path, required=True, metavar="FOLDER", help="pairs of pictures in a folder for each task")
    add("--basis", type=a_path, required=True, metavar="FILE", help="the LoRWeB checkpoint")
    add("--model", type=a_path, required=True, metavar="DIR_OR_ID", help="FLUX.1-Kontext in diffusers' layout")
    add("--out", type=a_path, required=True, metavar="FOLDER", help="where all of it goes, and is gone on with")
    add(
        "--ways",
        nargs="+",
        choices=tuple(WAYS),
        default=list(_SETTINGS.ways),
        help=f"what is compared ({ways})",
    )
    add("--layout", choices=(AUTO, *FOLDER_LAYOUTS), default=AUTO, help="of the data's folder (default: %(default)s)")
    add(
        "--limit",
        type=int,
        default=_SETTINGS.limit,
        help="analogies of each task, at most (default: %(default)s)",
    )
    add("--tasks", type=int, default=0, help="tasks of each group, at most; 0 for all (default: %(default)s)")
    add(
        "--group",
        type=a_text,
        action="append",
        default=[],
        metavar="NAME=GLOB",
        help="tasks that get a table of their own, e.g. new=new-*; repeatable, the first that matches counts",
    )
    add(
        "--seed",
        type=int,
        default=_SETTINGS.seed,
        help="of the draw, the noises and fits (default: %(default)s)",
    )
    add("--config", type=a_path, metavar="YAML", help="the basis's training config (default: the one beside it)")
    add("--encoder", type=a_path, metavar="DIR_OR_ID", help="the image encoder (default: the basis's own)")
    add("--lora", type=a_path, metavar="FILE", help="the LoRA of the way lora")
    add("--fit-steps", type=int, default=_SETTINGS.fit_steps, help="of the way fitted (default: %(default)s)")
    add("--steps", type=int, default=_SETTINGS.steps, help="denoising steps (default: %(default)s)")
    add("--guidance", type=float, default=_SETTINGS.guidance, help="guidance scale (default: %(default)s)")
    add("--megapixels", type=float, default=1.0, help="size of the grid in 1024×1024 pixels (default: %(default)s)")
    add("--fit", choices=FITS, default="stretch", help="where shapes differ from a's (default: %(default)s)")
    add("--sampled", choices=SAMPLED, help="the whole grid, or b' alone (default: what the basis was trained with)")
    add("--prompts", choices=PROMPTS, default="captions", help="what the model is told (default: %(default)s)")
    add("--text-tokens", type=int, default=512, help="length of a prompt's encoding (default: %(default)s)")
    add("--lpips", choices=LPIPS_NETS, default="alex", help="LPIPS's net, or none (default: %(default)s)")
    add("--lpips-weights", type=a_path, metavar="FILE", help="that net's weights (default: torchvision's, downloaded)")
    add(
        "--clip",
        type=a_path,
        default=_SETTINGS.clip,
        metavar="DIR_OR_ID|none",
        help="CLIP (default: %(default)s)",
    )
    add(
        "--judge",
        type=a_path,
        default=NONE,
        metavar="none|stand-in|DIR_OR_ID|ADDRESS",
        help="a vision-language model for transformers, or the address of one that speaks the OpenAI form, such as "
        f"http://localhost:8000/v1, with its key in {KEY}; the stand-in only tries this out (default: %(default)s)",
    )
    add("--judge-model", type=a_text, metavar="NAME", help="the model at that address")
    add("--judge-timeout", type=float, default=_SETTINGS.judge_timeout, help="seconds (default: %(default)s)")
    add(
        "--judge-retries",
        type=int,
        default=_SETTINGS.judge_retries,
        help="further tries (default: %(default)s)",
    )
    add("--against", choices=tuple(WAYS), help="the way that every other is compared with (default: the first)")
    add("--quantize", action="store_true", help="hold the base in 8 bits while fitting, on CUDA (needs bitsandbytes)")
    add("--offload", action="store_true", help="keep the base's weights in the CPU's memory while fitting: slower")
    add("--device", help="cuda, mps or cpu (default: the best there is)")


def read_arguments(given: argparse.Namespace) -> EvaluationRequest:
    """Check what can be checked at once. Raises LoRWebError."""
    names = [field.name for field in fields(EvaluationSettings) if field.name not in ("ways", "groups")]
    chosen: dict[str, Any] = {name: getattr(given, name) for name in names}
    groups = tuple(map(_read_group, given.group))
    settings = EvaluationSettings(**chosen, ways=tuple(given.ways), groups=groups)
    settings.check(tuple(WAYS))
    check_judge(settings.judge)
    for path in filter(None, (settings.lora, settings.lpips_weights)):
        regular_file(path)
    _check_installed(settings)
    return EvaluationRequest(settings, Path(given.out), given.device, given.quantize, given.offload)


def _read_group(given: str) -> Group:
    name, equals, pattern = (part.strip() for part in given.partition("="))
    if not (name and equals and pattern):
        raise LoRWebError(f"--group is {shown(given)}; expected NAME=GLOB, such as new=new-*.")
    return Group(name, pattern)


def _check_installed(settings: EvaluationSettings) -> None:
    needed = {"lpips": settings.lpips != NONE, "peft": settings.lora is not None}
    missing = [name for name, wanted in needed.items() if wanted and importlib.util.find_spec(name) is None]
    if missing:
        raise LoRWebError(
            f"{', '.join(missing)} not installed: run `pip install .[cli,eval]` in this project's folder. Without it "
            "give --lpips none, and no LoRA file."
        )
