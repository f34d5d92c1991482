"""Answer the pack's page: saved mixtures, described for the widgets of Mixture Edit and Mixture Blend.

Only files that the host lists in the models folders are read, one request at a time, and nothing is written.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from aiohttp import web
from multidict import MultiMapping

from ...lorweb_core import LoRWebError, load_basis
from ...lorweb_core.errors import named
from ...lorweb_core.files.tensor_files import checkpoint_identity, file_identity
from ...lorweb_core.space.mixture_file import load_mixture
from ...lorweb_core.space.mixture_map import mixture_view
from .model_files import AUTO, MIXTURE_SUFFIX, MIXTURES, basis_files, listed_file

MOST_MIXTURES = 4
"""Most mixtures of one request: as many as Mixture Blend takes."""

LARGEST_MIXTURE = 64 * 2**20
"""Limit of a mixture's file, in bytes; Save Mixture's are a few hundred kilobytes for an analogy."""

_one_at_a_time = Lock()


def serve() -> None:
    """Add the route GET /lorweb/mixtures to the host's server, where there is one.

    Its query: basis and config, names as in the LoRWeB Basis Loader; mixture, up to four times; origin, as in Mixture
    Blend. It answers with `mixture_view` in JSON, or with status 400 and an error in words.
    """
    instance = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if instance is None:
        return

    @instance.routes.get("/lorweb/mixtures")
    async def mixtures(request: web.Request) -> web.Response:
        status, answered = await asyncio.get_running_loop().run_in_executor(None, answer, request.query)
        return web.json_response(answered, status=status)


def answer(query: MultiMapping[str]) -> tuple[int, dict[str, Any]]:
    """Answer a query with HTTP status and body: what is asked, or the error that says why not."""
    given = query.get("basis", ""), query.get("config", AUTO), query.getall("mixture", []), query.get("origin", "zero")
    try:
        return 200, view(*given)
    except LoRWebError as error:
        return 400, {"error": str(error)}
    except Exception:
        logging.exception("LoRWeB: a request of the page failed")
        return 500, {"error": "The server could not read these mixtures; its log says why."}


def view(basis_name: str, config_name: str, mixture_names: list[str], origin: str) -> dict[str, Any]:
    """Describe saved mixtures by `mixture_view`. Raises LoRWebError for names that the host does not list."""
    if not 1 <= len(mixture_names) <= MOST_MIXTURES:
        raise LoRWebError(f"{len(mixture_names)} mixtures are asked for; expected 1 to {MOST_MIXTURES}.")
    basis, config = basis_files(basis_name, config_name)
    mixtures = tuple(listed_file(MIXTURES, name, MIXTURE_SUFFIX) for name in mixture_names)
    for path in mixtures:
        if path.stat().st_size > LARGEST_MIXTURE:
            raise LoRWebError(
                f"{named(path)} has more than {LARGEST_MIXTURE // 2**20} MB; the page shows smaller mixtures only."
            )
    known = checkpoint_identity(basis), config and file_identity(config), *map(file_identity, mixtures)
    with _one_at_a_time:
        return _view(basis, config, mixtures, origin, known)


@lru_cache(maxsize=32)
def _view(basis: Path, config: Path | None, mixtures: tuple[Path, ...], origin: str, known: tuple) -> dict[str, Any]:
    """Read and describe mixtures; known: the files' identities, so that changed ones are read anew."""
    loaded = load_basis(basis, config)
    return mixture_view([load_mixture(path, loaded) for path in mixtures], origin)
