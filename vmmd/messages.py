# SPDX-License-Identifier: Apache-2.0
"""Messages on stderr: one line each, ``vmmd: …``. Used from the first moment on; imports nothing heavy.

While the machine is built they are written at once. Once it is there, nobody may wait for whoever reads stderr: then
``later`` takes the lines.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Messages:
    """Writes ``vmmd: …`` lines to stderr; with ``-msg timestamp=on`` each starts with the time, as QEMU's do."""

    def __init__(self) -> None:
        self.timestamp = False
        self.guest_name: str | None = None
        #: takes the lines, once there are clients and vCPUs that must not wait for stderr
        self.later: Callable[[str], None] | None = None

    def _prefix(self) -> str:
        parts = []
        if self.timestamp:
            now = time.time()
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
            parts.append(f"{stamp}.{int(now % 1 * 1_000_000):06d}Z")
        if self.guest_name:
            parts.append(self.guest_name)
        return " ".join([*parts, "vmmd:"])

    def error(self, text: str) -> None:
        """One line about why something the user asked for is not done."""
        self._tell(text)

    def warning(self, text: str) -> None:
        self._tell(f"warning: {text}")

    def notice(self, text: str) -> None:
        """A ready-made line, "warning: …" or "info: …"."""
        self._tell(text)

    def lines(self, text: str) -> None:
        """A message of the log, which may have several lines (registers, traceback)."""
        head, *rest = text.split("\n")
        self._tell(head)
        for line in rest:
            self._put(line)

    def _tell(self, text: str) -> None:
        self._put(f"{self._prefix()} {text}")

    def _put(self, line: str) -> None:
        if self.later is not None:
            self.later(line)
            return
        try:
            sys.stderr.write(printable(line) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):  # stderr is closed or full: there is nobody to tell
            return


def printable(line: str) -> str:
    """The line with control characters made visible: a file name or a value must not steer the terminal, or make two
    lines."""
    return line if line.isprintable() else "".join(each if each.isprintable() else _visible(each) for each in line)


def _visible(character: str) -> str:
    if character in "\n\t":
        return " "
    return character.encode("unicode_escape").decode("ascii")


messages = Messages()
