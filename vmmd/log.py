# SPDX-License-Identifier: Apache-2.0
"""Loggers that cost nothing until something is logged.

``logging`` takes 15 ms to import, half of what QEMU needs from exec to its greeting, and a healthy start logs nothing.
``get_logger`` returns a stand-in that imports it with the first message. Messages go to stderr as ``vmmd: …`` lines.

Levels: *error*: something the user asked for did not happen; *warning*: guest or host did something odd that was
survived; *info*: a rare change of state; *debug*: for developers. ``VMMD_LOG=debug`` sets the threshold (default:
warning). What a guest can trigger goes through ``RateLimiter``.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging


class Logger:
    """Stand-in for ``logging.Logger`` with the methods vmmd uses. Any thread."""

    __slots__ = ("_name", "_real")

    def __init__(self, name: str) -> None:
        self._name = name
        self._real: logging.Logger | None = None

    def _logger(self) -> logging.Logger:
        if self._real is None:
            self._real = _configured(self._name)
        return self._real

    def debug(self, text: str, *args: object) -> None:
        if _DEBUG:
            self._logger().debug(text, *args)

    def info(self, text: str, *args: object) -> None:
        if _DEBUG or _INFO:
            self._logger().info(text, *args)

    def warning(self, text: str, *args: object) -> None:
        self._logger().warning(text, *args)

    def error(self, text: str, *args: object, exc_info: BaseException | None = None) -> None:
        self._logger().error(text, *args, exc_info=exc_info)

    def exception(self, text: str, *args: object) -> None:
        """An error with the traceback of the exception being handled."""
        self._logger().exception(text, *args)


_LEVEL = os.environ.get("VMMD_LOG", "warning").lower()
_DEBUG = _LEVEL == "debug"
_INFO = _LEVEL == "info"


def get_logger(name: str) -> Logger:
    """The logger ``name`` ("vmmd.kvm")."""
    return Logger(name)


def _configured(name: str) -> logging.Logger:
    import logging

    root = logging.getLogger("vmmd")
    if not root.handlers:
        from vmmd.messages import messages

        class Handler(logging.Handler):
            """Lines like those of start-up errors, with the time when -msg asks for it."""

            def emit(self, record: logging.LogRecord) -> None:
                level = "" if record.levelno == logging.ERROR else f"{record.levelname.lower()}: "
                messages.lines(level + self.format(record))

        root.addHandler(Handler())
        root.setLevel(_LEVEL.upper() if _LEVEL in ("debug", "info", "warning", "error") else "WARNING")
        root.propagate = False
    return logging.getLogger(name)


class RateLimiter:
    """Lets the first message through, then one per ``period_s``; tells how many were left out."""

    __slots__ = ("_next", "_period_s", "suppressed")

    def __init__(self, period_s: float = 5.0) -> None:
        self._period_s = period_s
        self._next = 0.0
        self.suppressed = 0

    def __call__(self) -> bool:
        """True when a message may be written now."""
        now = time.monotonic()
        if now < self._next:
            self.suppressed += 1
            return False
        self._next = now + self._period_s
        return True
