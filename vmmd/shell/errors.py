# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between the shell and its peer; each has a text for people."""

from __future__ import annotations

from typing import Any


class ShellError(Exception):
    """Anything that ends a command of the shell; the text says why."""


class ConnectionFailed(ShellError):
    """There is no connection, or it was lost, or the peer does not answer in time."""


class CommandFailed(ShellError):
    """The peer answered with an error; ``error`` is QMP's ``{"class": …, "desc": …}``."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error.get("desc", "")))
        self.error = error


class OutputFailed(ShellError):
    """An answer cannot be written."""
