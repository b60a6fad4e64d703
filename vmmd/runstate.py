# SPDX-License-Identifier: Apache-2.0
"""Run states of the virtual machine and the table of their legal transitions."""

from __future__ import annotations

import enum
import time
from typing import TYPE_CHECKING

from vmmd.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Callable


class RunState(enum.StrEnum):
    """QMP's RunState, as far as vmmd can be in it."""

    PRELAUNCH = "prelaunch"  # -S: built, never started
    RUNNING = "running"
    PAUSED = "paused"  # by the user
    IO_ERROR = "io-error"  # rerror/werror=stop
    INTERNAL_ERROR = "internal-error"  # KVM or a device gave up
    SHUTDOWN = "shutdown"  # the guest powered off, -no-shutdown keeps the process
    GUEST_PANICKED = "guest-panicked"
    WATCHDOG = "watchdog"
    DEBUG = "debug"


_S = RunState

#: from -> to; what is not here is a bug of the caller (the caller checks user requests first). Only a running VM is
#: stopped, whatever for; a reset of one that does not run leads to ``prelaunch``.
TRANSITIONS: dict[RunState, frozenset[RunState]] = {
    _S.PRELAUNCH: frozenset({_S.RUNNING}),
    _S.RUNNING: frozenset(
        {_S.PAUSED, _S.IO_ERROR, _S.INTERNAL_ERROR, _S.SHUTDOWN, _S.GUEST_PANICKED, _S.WATCHDOG, _S.DEBUG}
    ),
    _S.PAUSED: frozenset({_S.RUNNING, _S.PRELAUNCH}),
    _S.IO_ERROR: frozenset({_S.RUNNING, _S.PRELAUNCH}),
    _S.INTERNAL_ERROR: frozenset({_S.PRELAUNCH}),
    _S.SHUTDOWN: frozenset({_S.PRELAUNCH}),
    _S.GUEST_PANICKED: frozenset({_S.RUNNING, _S.PRELAUNCH}),
    _S.WATCHDOG: frozenset({_S.RUNNING, _S.PRELAUNCH}),
    _S.DEBUG: frozenset({_S.RUNNING, _S.PRELAUNCH}),
}

#: states that only a reset leaves: ``cont`` is refused with «Resetting the Virtual Machine is required»
NEEDS_RESET = frozenset({_S.INTERNAL_ERROR, _S.SHUTDOWN})


class RunStateMachine:
    """The present state. Changed on the loop only; read anywhere."""

    def __init__(self) -> None:
        self.state = RunState.PRELAUNCH
        self.since_ns = time.monotonic_ns()
        self._observers: list[Callable[[RunState, RunState], None]] = []

    @property
    def running(self) -> bool:
        return self.state is RunState.RUNNING

    @property
    def needs_reset(self) -> bool:
        return self.state in NEEDS_RESET

    def set(self, new: RunState) -> None:
        """Move to ``new``. Raises InternalError on a transition that the table does not have."""
        old = self.state
        if new is old:
            return
        if new not in TRANSITIONS[old]:
            raise InternalError(f"The run state cannot go from '{old.value}' to '{new.value}'")
        self.state = new
        self.since_ns = time.monotonic_ns()
        for observer in self._observers:
            observer(old, new)

    def observe(self, callback: Callable[[RunState, RunState], None]) -> None:
        """Call ``callback(old, new)`` after every transition."""
        self._observers.append(callback)
