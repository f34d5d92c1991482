"""`python -m small_world COMMAND`: makes the small world's models, each from its seed, and what is shown of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from small_world import study
from small_world.models import autoencoder
from small_world.models import flux as base
from small_world.models import image_encoder as encoder
from small_world.models import stored as models


class Command(NamedTuple):
    help: str
    run: Callable[[argparse.Namespace], None]


def _autoencoder(arguments: argparse.Namespace) -> None:
    models.save(autoencoder.train(), models.AUTOENCODER)


def _encoder(arguments: argparse.Namespace) -> None:
    encoder.train().half().save_pretrained(models.ENCODER)


def _base(arguments: argparse.Namespace) -> None:
    lessons = base.draw_lessons(models.load_autoencoder().encode)
    for cycle in range(arguments.cycle, len(base.CYCLES)):
        transformer = models.load_transformer() if cycle else base.untrained()
        base.train(transformer.requires_grad_(), lessons, cycle)
        models.save(transformer, models.BASE)


def _basis(arguments: argparse.Namespace) -> None:
    from small_world.models.shipped_basis import train

    train()


def _measure(arguments: argparse.Namespace) -> None:
    from small_world.models.shipped_basis import measure

    measure()


def _pairs(arguments: argparse.Namespace) -> None:
    from small_world.world.pair_folders import write_pairs

    write_pairs(Path(arguments.out))


def _pipeline(arguments: argparse.Namespace) -> None:
    from small_world import install
    from small_world.models.diffusers_folder import write_pipeline

    write_pipeline(arguments.out, models.load_transformer(), install.taesd(), silent=True)


def _study(arguments: argparse.Namespace) -> None:
    study.run(worker=arguments.worker, workers=arguments.workers)


def _report(arguments: argparse.Namespace) -> None:
    from small_world.report import write_report

    write_report()


COMMANDS = {
    "autoencoder": Command("learn the autoencoder", _autoencoder),
    "encoder": Command("learn the image encoder", _encoder),
    "base": Command("teach the base model edits by words (needs the autoencoder)", _base),
    "basis": Command("learn the basis that is shipped (needs all three)", _basis),
    "measure": Command("say how the base and the basis that are kept do", _measure),
    "pairs": Command("write pairs of pictures, grouped by edit, for `python -m lorweb_core train`", _pairs),
    "pipeline": Command("write the base and the autoencoder as a pipeline of diffusers", _pipeline),
    "study": Command("train and measure every variant with every seed (hours; goes on where it was)", _study),
    "report": Command("write docs/small_world.md and its pictures from what the study found", _report),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m small_world", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        added = commands.add_parser(name, help=command.help, description=command.help)
        added.add_argument("--threads", type=int, default=2, help="processor cores (default: %(default)s)")
        if name == "base":
            added.add_argument("--cycle", type=int, default=0, help="go on from what is kept, with this cycle")
        if name == "study":
            added.add_argument("--worker", type=int, default=0, help="of several, which one this is, from 0")
            added.add_argument("--workers", type=int, default=1, help="how many share the work")
        if name in ("pairs", "pipeline"):
            added.add_argument("out", metavar="FOLDER", help="where to")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    COMMANDS[arguments.command].run(arguments)


if __name__ == "__main__":
    main()
