"""`python -m small_world COMMAND`: make the small world's models, each from its seed, measure and show them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from lorweb_core.errors import LoRWebError
from small_world import study
from small_world.models import shipped_basis, stored, trained
from small_world.worlds import FAMILIES, PLAIN, WORLDS


class Command(NamedTuple):
    """Describe a command and how it is run."""

    help: str
    run: Callable[[argparse.Namespace], None]
    threads: int = 2


def _autoencoder(arguments: argparse.Namespace) -> None:
    trained.train_autoencoder(arguments.world)


def _encoder(arguments: argparse.Namespace) -> None:
    trained.train_encoder(arguments.world)


def _base(arguments: argparse.Namespace) -> None:
    trained.train_base(arguments.world, arguments.compile)


def _basis(arguments: argparse.Namespace) -> None:
    trained.train_basis(arguments.world)


def _measure(arguments: argparse.Namespace) -> None:
    shipped_basis.measure(arguments.world)


def _ways(arguments: argparse.Namespace) -> None:
    from small_world.ways_of_sampling import measure

    measure(arguments.basis)


def _pairs(arguments: argparse.Namespace) -> None:
    from small_world.world.pair_folders import write_pairs

    write_pairs(arguments.world, Path(arguments.out))


def _pictures(arguments: argparse.Namespace) -> None:
    from small_world.example_pictures import draw_examples

    draw_examples()


def _pipeline(arguments: argparse.Namespace) -> None:
    from small_world import install
    from small_world.models.diffusers_folder import write_pipeline

    world = arguments.world
    write_pipeline(arguments.out, stored.load_transformer(world), install.taesd(world), silent=True)


def _study(arguments: argparse.Namespace) -> None:
    study.run(worker=arguments.worker, workers=arguments.workers)


def _fit(arguments: argparse.Namespace) -> None:
    from small_world.fit_study import run

    run()


def _origin(arguments: argparse.Namespace) -> None:
    from small_world.origin_study import measure

    measure()


def _choose(arguments: argparse.Namespace) -> None:
    from small_world.choose_study import run

    run()


def _chosen_pictures(arguments: argparse.Namespace) -> None:
    from small_world.chosen_pictures import draw

    draw()


def _pair_choice(arguments: argparse.Namespace) -> None:
    from small_world.pair_study import draw_page, measure

    draw_page(arguments.picture) if arguments.picture else measure()


def _score(arguments: argparse.Namespace) -> None:
    from small_world.score_study import measure

    measure()


def _demonstrations(arguments: argparse.Namespace) -> None:
    from small_world.demonstrations_study import measure

    measure()


def _report(arguments: argparse.Namespace) -> None:
    from small_world.study_report import write_report

    write_report()


def _reach(arguments: argparse.Namespace) -> None:
    from small_world.reach_study import run

    run(arguments.worker, arguments.workers)


def _reach_report(arguments: argparse.Namespace) -> None:
    from small_world.reach_report import write_report

    write_report()


def _router(arguments: argparse.Namespace) -> None:
    from small_world.router_study import run

    run(arguments.worker, arguments.workers)


COMMANDS = {
    "autoencoder": Command("train a world's autoencoder", _autoencoder, threads=1),
    "encoder": Command("train a world's image encoder", _encoder, threads=1),
    "base": Command("teach a world's base model edits by words (needs the autoencoder)", _base),
    "basis": Command("train a world's basis (needs all three)", _basis),
    "measure": Command("measure a world's base and basis", _measure),
    "ways": Command("measure what sampling b' alone and keeping the references cost in quality", _ways),
    "pairs": Command("write pairs of pictures, grouped by edit, for `python -m lorweb_core train`", _pairs),
    "pictures": Command("draw the pictures that the bundled workflows open with", _pictures),
    "pipeline": Command("write the base and the autoencoder as a pipeline of diffusers", _pipeline),
    "study": Command("train and measure every variant with every seed (hours; continues where it stopped)", _study),
    "fit": Command("fit mixtures to examples, and measure them (an hour; continues where it stopped)", _fit),
    "origin": Command("measure sums of two edits, and strengths, from the origin and from zero", _origin),
    "choose": Command("measure edits chosen of examples that show more (an hour; continues where it stopped)", _choose),
    "chosen-pictures": Command("draw one edit out of two, two from two, and strengths, for docs", _chosen_pictures),
    "pair-choice": Command("measure what well and badly chosen pairs make", _pair_choice),
    "score": Command("measure how well scores choose among results of four noises", _score),
    "demonstrations": Command("measure what several pairs of one edit bring to routing", _demonstrations),
    "report": Command("write the table and the plots of docs/small_world.md from the study's results", _report),
    "reach": Command("measure how far bases of the world of families reach (an hour; continues)", _reach),
    "router": Command("measure ways to bring routing nearer to fitting (an hour; continues)", _router),
    "reach-report": Command("write the table and the plots of the reach study's results for docs", _reach_report),
}

OF_A_WORLD = ("autoencoder", "encoder", "base", "basis", "measure", "pairs", "pipeline")
"""Commands for either world; the others are of the plain one, but for reach and router, which are of families."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m small_world", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        added = commands.add_parser(name, help=command.help, description=command.help)
        threads = command.threads
        added.add_argument("--threads", type=int, default=threads, help="processor cores (default: %(default)s)")
        if name in OF_A_WORLD:
            added.add_argument("--world", choices=WORLDS, default=FAMILIES.name, help="(default: %(default)s)")
        if name == "base":
            added.add_argument("--compile", action="store_true", help="a third faster, where a C++ compiler is")
        if name == "ways":
            added.add_argument(
                "basis", nargs="*", type=Path, default=[PLAIN.basis], help="bases; the shipped one first"
            )
        if name == "pair-choice":
            added.add_argument("--picture", type=Path, metavar="FILE", help="draw one analogy with each pair instead")
        if name in ("study", "reach", "router"):
            added.add_argument("--worker", type=int, default=0, help="number of this worker, from 0")
            added.add_argument("--workers", type=int, default=1, help="number of workers that share the work")
        if name in ("pairs", "pipeline"):
            added.add_argument("out", metavar="FOLDER", help="the folder to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.command in OF_A_WORLD:
        arguments.world = WORLDS[arguments.world]
    try:
        COMMANDS[arguments.command].run(arguments)
    except LoRWebError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
