"""A real ComfyUI on a free port of this machine, with this pack in it and a base folder of its own."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import aiohttp
from environment import ROOT
from pack import shipped_files

PROGRESS_TEXT = 3
"""The host's BinaryEventTypes.TEXT."""

Event = Callable[[str, dict], None]
"""Called with the type and the data of each of the server's messages about a prompt, and of texts in nodes."""

TEXT = (3).to_bytes(4, "big")
"""How a binary message begins that shows a text in a node (protocol.py: BinaryEventTypes)."""


class PromptError(RuntimeError):
    """Report that the server refused a prompt or failed to execute it; `details` is its answer."""

    def __init__(self, details: dict):
        super().__init__(json.dumps(details, indent=1)[:4000])
        self.details = details


class ComfyServer:
    """Run a ComfyUI: `with ComfyServer(comfyui, python, base) as server: server.run(graph)`.

    base: the folder of its models, input and output.
    """

    def __init__(self, comfyui: Path, python: str, base: Path, *arguments: str):
        self.base = base
        for name in ("models", "input", "output", "user", "custom_nodes"):
            (base / name).mkdir(parents=True, exist_ok=True)
        pack = base / "custom_nodes" / "ComfyUI-LoRWeB"
        if not pack.exists():
            # What the registry would ship; a copy, because Windows keeps links for administrators.
            for path in shipped_files():
                (pack / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / path, pack / path)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        # fmt: off
        self.command = [
            python, str(comfyui / "main.py"), "--cpu", "--port", str(self.port), "--base-directory", str(base),
            "--disable-auto-launch", *arguments,
        ]
        # fmt: on
        self.log = base / "comfyui.log"

    def __enter__(self) -> ComfyServer:
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT)
        for _ in range(600):
            if self.process.poll() is not None:
                break
            try:
                self.get("/system_stats")
                return self
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        self.__exit__(None, None, None)
        raise RuntimeError(f"ComfyUI did not start:\n{self.log.read_text('utf-8', 'replace')[-3000:]}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.wait(30)

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return answer.read()

    def interrupt(self) -> None:
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{self.port}/interrupt", method="POST")).close()

    def run(self, *graphs: dict, on_event: Event | None = None) -> list[dict[str, list[Path]]]:
        """Queue the graphs and wait for all; returns for each: node id → the picture files it made.

        Raises PromptError if one is refused, fails or is interrupted.
        """
        return asyncio.run(self._run(graphs, on_event))

    async def _run(self, graphs: tuple[dict, ...], on_event: Event | None) -> list[dict[str, list[Path]]]:
        url = f"http://127.0.0.1:{self.port}"
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/ws?clientId=lorweb") as socket:
            waiting = []
            for graph in graphs:
                async with session.post(f"{url}/prompt", json={"prompt": graph, "client_id": "lorweb"}) as answer:
                    body = await answer.json()
                # A prompt with one good output is accepted, and the errors of the others are told.
                if answer.status != 200 or body["node_errors"]:
                    raise PromptError(body)
                waiting.append(body["prompt_id"])
            pictures: dict[str, dict[str, list[Path]]] = {prompt: {} for prompt in waiting}
            async for message in socket:
                if message.type == aiohttp.WSMsgType.BINARY and on_event and message.data[:4] == TEXT:
                    on_event("progress_text", _shown_text(message.data[4:]))
                if message.type != aiohttp.WSMsgType.TEXT:
                    continue
                event = json.loads(message.data)
                kind, data = event["type"], event["data"]
                prompt = data.get("prompt_id")
                if prompt not in pictures:
                    continue
                if on_event:
                    on_event(kind, data)
                if kind == "executed":
                    shown = data["output"] or {}  # none for a node that the host has in its cache
                    pictures[prompt][data["node"]] = [self._file(image) for image in shown.get("images", ())]
                elif kind in ("execution_error", "execution_interrupted"):
                    raise PromptError(data)
                elif kind == "execution_success":
                    waiting.remove(prompt)
                    if not waiting:
                        return list(pictures.values())
        raise RuntimeError(f"ComfyUI closed the connection:\n{self.log.read_text('utf-8', 'replace')[-3000:]}")

    def _file(self, image: dict) -> Path:
        return self.base / image["type"] / image["subfolder"] / image["filename"]


def _shown_text(message: bytes) -> dict[str, str]:
    """Read what the host's send_progress_text (server.py) sent: the length of a node's id, the id, and the text."""
    end = 4 + int.from_bytes(message[:4], "big")
    return {"node": message[4:end].decode(), "text": message[end:].decode()}


def _pass_on_text(message: bytes, on_event: Event) -> None:
    """Give the text that a node shows as an event of its own, progress_text (the host's send_progress_text)."""
    kind, length = struct.unpack_from(">II", message)
    if kind == PROGRESS_TEXT:
        node, text = message[8 : 8 + length], message[8 + length :]
        on_event("progress_text", {"node": node.decode(), "text": text.decode()})
