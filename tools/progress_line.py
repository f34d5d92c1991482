"""One line on the console that says what is going on. Standard library only."""

from __future__ import annotations

import shutil
import sys
from types import TracebackType
from typing import TextIO

QUIET = {
    "PYTHONWARNINGS": "ignore",
    "TQDM_DISABLE": "1",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Environment in which the libraries' own bars and warnings are left out; their errors are not."""


class ProgressLine:
    """Show each state in the place of the one before; in a file or a pipe, on a line of its own.

    `with ProgressLine() as line: line.say("1 of 8")`; whatever is printed after it, an error too, begins on a new line.
    """

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream or sys.stdout
        self._shown = 0

    def __enter__(self) -> ProgressLine:
        return self

    def say(self, text: str) -> None:
        """Show a state; on a terminal cut to its width, because a line that is wrapped could not be written over."""
        self._write(text[: _width()] if self._stream.isatty() else text)

    def end(self, text: str) -> None:
        """Show the last state, whole."""
        self._write(text)

    def _write(self, text: str) -> None:
        if self._stream.isatty():
            self._stream.write(f"\r{text.ljust(min(self._shown, _width()))}")
            self._shown = len(text)
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            self._stream.write("\n")
            self._stream.flush()


def _width() -> int:
    return shutil.get_terminal_size().columns - 1
