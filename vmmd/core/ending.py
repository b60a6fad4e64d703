# SPDX-License-Identifier: Apache-2.0
"""SIGTERM, SIGINT and SIGHUP before the event loop runs: noted at once, acted upon between two steps of the start.

A signal that comes while vmmd imports, builds or waits must end it as cleanly as one that comes later: what was made
is removed, status 0. So the handlers are installed first of all and only take a note; the start looks at it between
its steps (``check``), where everything made so far has an owner that removes it. Where the start waits for somebody
(``wait=on``), the note itself ends the wait (``interruptible``).

LIMIT: a signal in the first 15 ms, before Python has come to vmmd's first line, has its default action; nothing has
been made then.

Main thread only.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class EndRequested(BaseException):
    """A signal asked for the end before the machine ran. Not an Exception: nobody on the way may survive it."""


class EarlyEnd:
    """Takes the note."""

    def __init__(self) -> None:
        self.requested = False
        self._waiting = False

    def install(self) -> None:
        """From now on signals are noted. What was blocked by whoever started us is let through."""
        for number in SIGNALS:
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    @staticmethod
    def uninstall() -> None:
        """Default actions again (the waiting parent of -daemonize: its end is not the machine's)."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        if self._waiting:
            raise EndRequested

    def check(self) -> None:
        """Between two steps. Raises EndRequested."""
        if self.requested:
            raise EndRequested

    def __enter__(self) -> None:
        """Waiting for somebody from here on: a signal raises EndRequested out of the wait."""
        self._waiting = True
        self.check()  # ORDERING: after the flag, so that no signal falls between the two

    def __exit__(self, *exc: object) -> None:
        self._waiting = False


#: the process has one set of signal handlers
early_end = EarlyEnd()
