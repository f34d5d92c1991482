"""Judges that look at pictures: a model of transformers, one at an address, or a stand-in that says it is one."""

from __future__ import annotations

import base64
import http.client
import io
import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import torch
from torch import Tensor

from ..errors import LoRWebError, named, shown
from ..files.image_file import as_image
from ..grid import Size, fit_inside, resize
from .questions import LEAST, MOST, Question

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

NO_JUDGE, STAND_IN = "none", "stand-in"

KEY = "LORWEB_JUDGE_KEY"
"""Environment variable with the key for an address."""

LONGEST_ANSWER = 256
"""Tokens of an answer: one line is asked for."""

LARGEST_SIDE = 1024
"""Pixels of a side of what a model is shown."""

LARGEST_REPLY = 1_000_000
"""Bytes that are read of a reply."""


class Judge(Protocol):
    """Describe who looks at pictures and answers in words."""

    retried: int
    """Tries so far beyond the first of each question."""

    def answer(self, question: Question) -> str:
        """Answer a question, well or badly. Raises LoRWebError if no answer can be had."""


class StandIn:
    """Answer in a judge's form by comparing pixels, for trying an evaluation out: it judges nothing."""

    retried = 0

    def answer(self, question: Question) -> str:
        a, a_prime, b, *results = (
            resize(picture[None].float(), Size(16, 16))[0] for picture in question.pictures.values()
        )
        ratings = [self._rate(a_prime - a, result - b) for result in results]
        if len(ratings) == 1:
            preservation, accuracy = ratings[0]
            return json.dumps({"preservation": preservation, "accuracy": accuracy})
        first, second = (sum(rating) for rating in ratings)
        return "tie" if first == second else "R1" if first > second else "R2"

    def _rate(self, wanted: Tensor, made: Tensor) -> tuple[int, int]:
        """Rate how much changed, and how near the mean change comes to the wanted one."""
        miss = (wanted.mean((0, 1)) - made.mean((0, 1))).abs().mean().item()
        preservation, accuracy = (max(LEAST, MOST - round(40 * much)) for much in (made.abs().mean().item(), miss))
        return preservation, accuracy


class LocalJudge:
    """Ask a vision-language model of transformers."""

    retried = 0

    def __init__(self, source: str, device: torch.device):
        """source: a folder or a Hugging Face id. Raises LoRWebError if it cannot be loaded."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            self._processor = AutoProcessor.from_pretrained(source)
            model = AutoModelForImageTextToText.from_pretrained(
                source, torch_dtype=torch.float32 if device.type == "cpu" else torch.bfloat16
            )
        except Exception as error:  # of damaged or absent files the library raises whatever comes of them
            raise LoRWebError(
                f"The judge {named(source)} cannot be loaded ({shown(str(error))}). Give a vision-language model that "
                "transformers loads as image-text-to-text, as a folder or a Hugging Face id."
            ) from error
        self._model = model.eval().to(device)

    @torch.no_grad()
    def answer(self, question: Question) -> str:
        content: list[dict[str, Any]] = []
        for name, picture in question.pictures.items():
            content += [{"type": "text", "text": f"Picture {name}:"}, {"type": "image", "image": _image(picture)}]
        content.append({"type": "text", "text": question.text})
        inputs = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._model.device, self._model.dtype)
        made = self._model.generate(**inputs, max_new_tokens=LONGEST_ANSWER, do_sample=False)
        return self._processor.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]


class Address(NamedTuple):
    """Hold where a judge is asked, and how long."""

    url: str
    model: str | None
    timeout: float
    retries: int


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follow no redirection: the key is for the address that was given."""

    def redirect_request(self, *_: object) -> None:
        """Give no request to follow with, so that the redirection is an error."""


_OPENER = urllib.request.build_opener(_NoRedirect)


class RemoteJudge:
    """Ask a model at an address that speaks the OpenAI form, `<address>/chat/completions`."""

    def __init__(self, address: Address, key: str | None = None, wait: Callable[[float], None] = time.sleep):
        """key: None takes the environment's, which may have none. wait: what passes the seconds between tries."""
        self._address, self._wait = address, wait
        self._key = os.environ.get(KEY) if key is None else key
        self.retried = 0

    def answer(self, question: Question) -> str:
        request = urllib.request.Request(
            f"{self._address.url.rstrip('/')}/chat/completions", json.dumps(self._body(question)).encode()
        )
        request.add_header("Content-Type", "application/json")
        if self._key:
            request.add_header("Authorization", f"Bearer {self._key}")
        for tried in range(self._address.retries + 1):
            try:
                with _OPENER.open(request, timeout=self._address.timeout) as reply:
                    return self._words(reply.read(LARGEST_REPLY))
            except urllib.error.HTTPError as error:
                error.close()
                if error.code not in (408, 409, 425, 429) and error.code < 500:
                    raise self._failed(f"HTTP {error.code}, {error.reason}") from error
                why = f"HTTP {error.code}"
            except (OSError, http.client.HTTPException) as error:
                why = shown(str(getattr(error, "reason", error)))
            if tried < self._address.retries:
                self.retried += 1
                log.warning("The judge did not answer (%s); trying again.", why)
                self._wait(min(60, 2**tried))
        raise self._failed(f"{why}, after {self._address.retries} further tries")

    def _body(self, question: Question) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        for name, picture in question.pictures.items():
            content += [
                {"type": "text", "text": f"Picture {name}:"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_png(picture)}"}},
            ]
        content.append({"type": "text", "text": question.text})
        model = {"model": self._address.model} if self._address.model else {}
        settings = {"temperature": 0, "max_tokens": LONGEST_ANSWER}
        return model | settings | {"messages": [{"role": "user", "content": content}]}

    def _words(self, reply: bytes) -> str:
        try:
            words = json.loads(reply)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise self._failed("its reply is not in the OpenAI form") from error
        return words if isinstance(words, str) else ""

    def _failed(self, why: str) -> LoRWebError:
        return LoRWebError(
            f"The judge at {shown(self._address.url)} cannot be asked: {why}. Check the address, --judge-model and the "
            f"key in {KEY}. What is measured until now is kept; the same command goes on."
        )


def is_address(judge: str) -> bool:
    return judge.startswith(("http://", "https://"))


def check_judge(judge: str) -> None:
    """Raise LoRWebError for an address without a host, or with a key or password in it, which the page would show."""
    if is_address(judge):
        parts = urlsplit(judge)
        if not parts.hostname or "@" in parts.netloc or parts.query:
            raise LoRWebError(
                "The judge's address must be https://HOST/PATH, such as http://localhost:8000/v1, without a key or "
                f"password in it. A key goes into the environment variable {KEY}."
            )


def _image(picture: Tensor) -> Image.Image:
    return as_image(fit_inside(picture, Size(LARGEST_SIDE, LARGEST_SIDE), enlarge=False))


def _png(picture: Tensor) -> str:
    file = io.BytesIO()
    _image(picture).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
