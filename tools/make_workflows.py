"""The bundled workflows, written from their description: `python tools/make_workflows.py` with a ComfyUI at hand.

Each is written as the frontend opens it, to `workflows/`, and as scripts post it, to `workflows/api/`; the block that
edits by example also to `subgraphs/`, where the frontend's search finds it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from environment import ROOT, find_host
from workflow_files import WORKFLOWS
from workflow_graph import BLOCK, Node, Types, Workflow, Writer

APP = ".app"
"""End of a file name by which the frontend opens a workflow as an app."""

SEARCHED = "Edit by example"
"""The workflow whose block the search finds."""


def main() -> None:
    host = find_host()
    if host is None:
        sys.exit(1)
    comfyui, python = host
    if sys.argv[1:2] != ["--in"]:
        sys.exit(subprocess.run([python, __file__, "--in", str(comfyui)]).returncode)
    from comfy_server import ComfyServer

    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(sys.argv[2]), sys.executable, Path(base)) as server:
        types = Types(json.loads(server.get("/object_info")))
    for title, workflow in WORKFLOWS.items():
        writer = Writer(workflow, types)
        save(ROOT / "workflows" / f"{title}.json", writer.as_ui())
        save(ROOT / "workflows" / "api" / f"{title.removesuffix(APP)}.json", writer.as_api())
    block = WORKFLOWS[SEARCHED].block
    alone = Workflow({"block": Node(BLOCK, width=340)}, block)
    save(ROOT / "subgraphs" / f"{block.title}.json", Writer(alone, types).as_ui())


def save(path: Path, told: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
