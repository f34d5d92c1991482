"""The command line: `python -m lorweb_core <command>`. Bad input is one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import importlib.util
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from .arguments import a_path, a_text, check_out
from .errors import LoRWebError, named, shown
from .files.atomic import replacing
from .files.image_file import read_image

if TYPE_CHECKING:
    from torch import Tensor


class Command(NamedTuple):
    """Describe one subcommand."""

    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]
    needs: tuple[str, ...]
    """Modules of the extra `cli`, looked for before anything else is done."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise LoRWebError(f"{named(message)} (see {self.prog} --help)")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal cannot show is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        arguments = _parser().parse_args(argv)
        command = COMMANDS[arguments.command]
        _check_installed(command.needs)
        command.run(arguments)
    except ImportError as error:
        return _refuse(_not_installed(str(error)))
    except LoRWebError as error:
        return _refuse(error)
    except KeyboardInterrupt:
        return 130
    return 0


def _refuse(error: LoRWebError) -> int:
    print(f"lorweb: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def _parser() -> Parser:
    parser = Parser(prog="python -m lorweb_core", description="LoRWeB outside ComfyUI: edit pictures by example.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        command.arguments(commands.add_parser(name, help=command.help, description=command.help))
    return parser


def _check_installed(modules: Iterable[str]) -> None:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise _not_installed(f"{', '.join(missing)} not installed")


def _not_installed(what: str) -> LoRWebError:
    return LoRWebError(f"{what}: run `pip install .[cli]` in this project's folder.")


def _analogy_arguments(parser: argparse.ArgumentParser) -> None:
    from .grid import FITS
    from .layout import SAMPLED

    add = parser.add_argument
    add("--a", type=a_path, required=True, metavar="IMAGE", help="the example before the edit")
    add("--a-prime", type=a_path, required=True, metavar="IMAGE", help="the same example after the edit")
    add("--b", type=a_path, required=True, metavar="IMAGE", help="the picture to edit in the same way")
    add("--prompt", type=a_text, required=True, help="what b should become")
    add(
        "--basis",
        type=a_path,
        required=True,
        metavar="FILE",
        help="the LoRWeB checkpoint, e.g. lorweb_model.safetensors",
    )
    add("--model", type=a_path, required=True, metavar="DIR_OR_ID", help="FLUX.1-Kontext in diffusers' layout")
    add(
        "--out",
        type=a_path,
        required=True,
        metavar="FILE",
        help="where to write b'; the whole grid, if it is sampled, goes to <name>-grid beside it",
    )
    add("--config", type=a_path, metavar="YAML", help="the basis's training config (default: the one beside it)")
    add(
        "--encoder",
        type=a_path,
        metavar="DIR_OR_ID",
        help="the image encoder (default: the one the basis was trained with)",
    )
    add("--steps", type=int, default=28, help="denoising steps (default: %(default)s)")
    add("--guidance", type=float, default=2.5, help="guidance scale (default: %(default)s)")
    add("--seed", type=int, default=50, help="of the noise (default: %(default)s)")
    add("--megapixels", type=float, default=1.0, help="size of the grid in 1024×1024 pixels (default: %(default)s)")
    add("--fit", choices=FITS, default="stretch", help="where shapes differ from a's (default: %(default)s)")
    add("--strength", type=float, default=1.0, help="how much of the edit (default: %(default)s)")
    add("--text-tokens", type=int, default=512, help="length of the prompt's encoding (default: %(default)s)")
    add(
        "--sampled",
        choices=SAMPLED,
        help="the whole grid, or b' alone, a quarter of its tokens (default: what the basis was trained with)",
    )
    add(
        "--references-every",
        type=int,
        default=1,
        metavar="K",
        help="compute the references in every K-th step only, 0 for the first; 1 is exact (default: %(default)s)",
    )
    add(
        "--mixture",
        type=a_path,
        metavar="FILE",
        help="a saved mixture of the basis, e.g. one that `fit` wrote; no image encoder is needed then",
    )
    add(
        "--fit-steps",
        type=int,
        default=0,
        metavar="STEPS",
        help="fit the mixture to the example first, in so many steps, as `fit` does (default: %(default)s)",
    )
    add("--device", help="cuda, mps or cpu (default: the best there is)")


def _analogy(arguments: argparse.Namespace) -> None:
    from .diffusers_backend.pipeline import run_analogy

    out = Path(arguments.out)
    kind = _check_output(out)
    grid_out = out.with_name(f"{out.stem}-grid{out.suffix}")
    inputs = {"--a": arguments.a, "--a-prime": arguments.a_prime, "--b": arguments.b}
    for option, path in inputs.items():
        if Path(path).resolve() in (out.resolve(), grid_out.resolve()):
            raise LoRWebError(f"--out {shown(out)} would overwrite {option}, {shown(Path(path))}. Choose another name.")
    a, a_prime, b = (read_image(path, option) for option, path in inputs.items())

    _log_phases()
    analogy = run_analogy(
        a,
        a_prime,
        b,
        arguments.prompt,
        arguments.basis,
        arguments.model,
        config=arguments.config,
        encoder=arguments.encoder,
        steps=arguments.steps,
        guidance=arguments.guidance,
        seed=arguments.seed,
        megapixels=arguments.megapixels,
        fit=arguments.fit,
        strength=arguments.strength,
        text_tokens=arguments.text_tokens,
        device=arguments.device,
        sampled=arguments.sampled,
        references_every=arguments.references_every,
        mixture=arguments.mixture,
        fit_steps=arguments.fit_steps,
    )
    pictures = {out: analogy.result} if analogy.grid is None else {out: analogy.result, grid_out: analogy.grid}
    _write_images(pictures, kind)
    print(f"Wrote {' and '.join(map(shown, pictures))}")


def _log_phases() -> None:
    """Log our phases on stdout, and no remarks of the libraries: stderr is for errors and the sampling bar."""
    import diffusers
    import huggingface_hub
    import transformers

    # The one about `torch_dtype` among them: the oldest diffusers that the extra takes knows no other name for it.
    warnings.simplefilter("ignore")
    huggingface_hub.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    diffusers.logging.disable_progress_bar()
    phases = logging.getLogger(__package__)
    phases.setLevel(logging.INFO)
    phases.handlers = [logging.StreamHandler(sys.stdout)]


def _check_output(out: Path) -> str:
    """Check that a picture can be written there; returns Pillow's name for its format."""
    from PIL import Image

    check_out(out, "b_prime.png")
    kind = Image.registered_extensions().get(out.suffix.lower(), "")
    try:
        # Some formats are read only, or not for RGB, or not in this build of Pillow: trying is the only test.
        Image.new("RGB", (16, 16)).save(io.BytesIO(), kind)
    except (KeyError, OSError, ValueError) as error:
        raise LoRWebError(
            f"--out {shown(out)}: Pillow cannot write {named(out.suffix) or 'a file without suffix'}; use .png."
        ) from error
    return kind


def _write_images(images: dict[Path, Tensor], kind: str) -> None:
    """Write all pictures or none: what goes first takes its place last."""
    from .files.image_file import as_image

    options = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    with ExitStack() as written:
        for path, pixels in images.items():
            as_image(pixels).save(written.enter_context(replacing(path)), kind, **options)


def _fit_arguments(parser: argparse.ArgumentParser) -> None:
    from .fitting.arguments import add_arguments

    add_arguments(parser)


def _fit(arguments: argparse.Namespace) -> None:
    from .diffusers_backend.fit_command import run_fit
    from .fitting.arguments import read_arguments

    given = read_arguments(arguments)
    _log_phases()
    run_fit(given)
    print(f"Wrote {shown(given.out)}")


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", type=a_path, metavar="CONFIG.yaml", help="what to train on what, as in the published training YAML")
    add(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="in the place of what the config says, e.g. train.lr=2e-4 or datasets.0.folder_path=pairs; repeatable",
    )


def _train(arguments: argparse.Namespace) -> None:
    from .diffusers_backend.terminal import train

    _log_phases()
    train(arguments.config, arguments.set)


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    from .evaluation.arguments import add_arguments

    add_arguments(parser)


def _evaluate(arguments: argparse.Namespace) -> None:
    from .diffusers_backend.evaluate_command import run_evaluation
    from .evaluation.arguments import read_arguments

    given = read_arguments(arguments)
    _log_phases()
    print(f"Wrote {shown(run_evaluation(given))}")


COMMANDS = {
    "analogy": Command(
        "Edit b as the example a → a' shows.",
        _analogy_arguments,
        _analogy,
        ("numpy", "PIL", "diffusers", "transformers", "accelerate"),
    ),
    "fit": Command(
        "Fit a mixture to an example a → a', or to several of one edit, and save it.",
        _fit_arguments,
        _fit,
        ("numpy", "PIL", "diffusers", "transformers", "accelerate"),
    ),
    "evaluate": Command(
        "Measure ways of making b' on many analogies, as the paper does, and write a page of it.",
        _evaluate_arguments,
        _evaluate,
        ("numpy", "PIL", "diffusers", "transformers", "accelerate"),
    ),
    "train": Command(
        "Learn a basis from pictures before and after edits.",
        _train_arguments,
        _train,
        ("numpy", "PIL", "diffusers", "transformers", "accelerate"),
    ),
}

if __name__ == "__main__":
    sys.exit(main())
