# SPDX-License-Identifier: Apache-2.0
"""QEMU's registers through its qtest protocol on stdio: no guest instruction runs (``-S``)."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.framework.vm import emulator

if TYPE_CHECKING:
    from types import TracebackType

_WIDTH = {1: "b", 2: "w", 4: "l"}


class Qtest:
    """One stopped QEMU whose ports the test reads and writes."""

    def __init__(self, *arguments: str) -> None:
        command = [
            *emulator("qemu").command,
            "-nodefaults",
            "-display",
            "none",
            "-monitor",
            "none",
            "-accel",
            "tcg",
            "-S",
        ]
        command += ["-qtest", "stdio", "-qtest-log", "/dev/null", *arguments]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def __enter__(self) -> Qtest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def _ask(self, line: str) -> list[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        words = self._process.stdout.readline().split()
        assert words[:1] == ["OK"], f"{line}: {words}"
        return words

    def read(self, port: int, size: int) -> int:
        return int(self._ask(f"in{_WIDTH[size]} {port:#x}")[1], 16)

    def write(self, port: int, size: int, value: int) -> None:
        self._ask(f"out{_WIDTH[size]} {port:#x} {value:#x}")
