# SPDX-License-Identifier: Apache-2.0
"""Text channels of a guest (serial port, debug console): collect output, expect patterns, send input."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.framework.wait import Reactor

ANSI_SEQUENCE = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[A-Za-z=>78])")


def strip_terminal(text: str) -> str:
    """*text* without terminal control sequences, carriage returns and backspaced characters."""
    text = ANSI_SEQUENCE.sub("", text).replace("\r", "")
    while "\x08" in text:
        text = re.sub(r"[^\n\x08]\x08|^\x08+", "", text, flags=re.MULTILINE)
    return text


class TextChannel:
    """One direction-separated character channel; bytes are decoded as Latin-1 so that none is lost.

    `text` is everything received; `expect()` consumes it from left to right.
    """

    def __init__(self, reactor: Reactor, read_fd: int, write_fd: int | None = None) -> None:
        self.text = ""
        self.wait: Callable[[Callable[[], bool], float, str], None] | None = None
        self._reactor = reactor
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._position = 0
        os.set_blocking(read_fd, False)
        reactor.add(read_fd, self._readable)

    def expect(self, pattern: str, timeout_s: float) -> re.Match[str]:
        """Wait until the regular expression *pattern* matches unconsumed output; consume up to the match's end."""
        regex = re.compile(pattern, re.MULTILINE)
        match: list[re.Match[str]] = []

        def arrived() -> bool:
            found = regex.search(self.text, self._position)
            if found is not None:
                match.append(found)
            return found is not None

        assert self.wait is not None, "the channel is not attached to a Vm"
        self.wait(arrived, timeout_s, f"{pattern!r} in the guest's output")
        self._position = match[0].end()
        return match[0]

    def expect_until(self, pattern: str, timeout_s: float) -> str:
        """Like `expect()`, but return the text between the last match and this one, without terminal codes."""
        start = self._position
        match = self.expect(pattern, timeout_s)
        return strip_terminal(self.text[start : match.start()])

    def send(self, text: str) -> None:
        """Send *text* to the guest."""
        assert self._write_fd is not None, "the channel is read-only"
        data = text.encode("latin-1")
        while data:
            data = data[os.write(self._write_fd, data) :]

    def drain(self) -> None:
        """Read what is left after the emulator's end."""
        while self._read_fd >= 0 and self._readable():
            pass

    def close(self) -> None:
        """Close both descriptors; idempotent."""
        if self._read_fd >= 0:
            self._reactor.remove(self._read_fd)
            os.close(self._read_fd)
        if self._write_fd is not None:
            os.close(self._write_fd)
        self._read_fd, self._write_fd = -1, None

    def _readable(self) -> bool:
        try:
            data = os.read(self._read_fd, 65536)
        except BlockingIOError:
            return False
        if not data:
            self._reactor.remove(self._read_fd)
            return False
        self.text += data.decode("latin-1")
        return True
