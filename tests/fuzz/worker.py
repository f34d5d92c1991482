"""A process that cases run in: one that hangs or dies takes only itself along, and is named."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from environment import ROOT

CHILD = ROOT / "tests" / "fuzz" / "child.py"
SECONDS = 10.0
"""That a case may take."""


class Outcome(NamedTuple):
    what: str
    """What was done."""
    result: str
    """refused, loaded or failed."""
    message: str
    """The refusal, or what is wrong."""


class Worker:
    """`with Worker(folder) as worker: worker.run("basis", 17)`. folder: for the cases' files and the process's log."""

    def __init__(self, folder: Path, python: str = sys.executable):
        self.folder, self.python = folder, python
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def run(self, kind: str, seed: int, seconds: float = SECONDS) -> Outcome:
        """What came of a case. seconds: that it may take; what is made once in a process is not counted."""
        if self.process is None:
            self._start()
        self.process.stdin.write(f"{kind} {seed}\n")
        self.process.stdin.flush()
        answers: list[str] = []
        while len(answers) < 3:
            try:
                answer = self.answers.get(timeout=seconds if answers else 120)
            except queue.Empty:
                self.stop()
                return Outcome(*(answers or ["while it was made"]), "failed", f"It took more than {seconds:g} s.")
            if answer is None:
                self.stop()
                log = (self.folder / "log").read_text("utf-8", "replace")[-2000:]
                return Outcome(*(answers or ["while it was made"]), "failed", f"The process died:\n{log}")
            answers.append(answer)
        return Outcome(*answers)

    def _start(self) -> None:
        # Memory that threads only reserve is not what is limited.
        environment = os.environ | {"TMPDIR": str(self.folder), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                [self.python, str(CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                env=environment,
                cwd=self.folder,
            )
        self.answers = queue.Queue()
        threading.Thread(target=self._listen, args=(self.process.stdout, self.answers), daemon=True).start()
        if self.answers.get(timeout=300) is None:
            raise RuntimeError((self.folder / "log").read_text("utf-8", "replace"))

    @staticmethod
    def _listen(lines: Iterable[str], answers: queue.Queue) -> None:
        for line in lines:
            answers.put(json.loads(line))
        answers.put(None)

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
        self.process = None


def run_all(worker: Worker, kind: str, seeds: Iterable[int]) -> None:
    """Run a kind's cases, and fail with all that went wrong, each with the command that runs it alone."""
    counts, failures = Counter(), []
    for seed in seeds:
        outcome = worker.run(kind, seed)
        counts[outcome.result] += 1
        if outcome.result == "failed":
            again = f"{Path(worker.python).name} tests/fuzz/child.py {kind} {seed}"
            failures.append(f"{kind} {seed}: {outcome.what}\n  again: {again}\n{outcome.message}")
    summary = ", ".join(f"{count} {result}" for result, count in counts.items())
    print(f"{kind}: {summary}")
    assert not failures, f"{kind}: {summary}\n\n" + "\n\n".join(failures)
