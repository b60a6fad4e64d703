# SPDX-License-Identifier: Apache-2.0
"""What a service manager wants to know of us (sd_notify(3)): ready, alive, ending and why. Loop thread only.

A VMM that hangs looks like one whose guest is busy. The watchdog message is sent from the loop: when the loop stands
still, systemd knows (WatchdogSec= of the unit).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vmmd.messages import messages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmmd.core.notify import LoopPort


#: whatever the environment says, the loop is not woken more often
MIN_BEAT_NS = 1_000_000


class ServiceManager:
    """The notification socket. What cannot be sent at once is left out: one that does not read delays no guest."""

    def __init__(self, loop: LoopPort, watchdog_ns: int) -> None:
        from sdnotify import SystemdNotifier

        self._loop = loop
        self._watchdog_ns = watchdog_ns
        self._notifier = SystemdNotifier()
        if self._notifier.socket is not None:
            self._notifier.socket.setblocking(False)

    @classmethod
    def from_environment(cls, loop: LoopPort, environment: Mapping[str, str] = os.environ) -> ServiceManager | None:
        """The manager that started us, or None when nobody waits for messages."""
        if not environment.get("NOTIFY_SOCKET"):
            return None
        try:
            return cls(loop, watchdog_ns(environment))
        except ImportError:
            messages.warning("NOTIFY_SOCKET is set, but the package sdnotify is missing; install vmmd[systemd]")
            return None

    def ready(self, status: str) -> None:
        """Monitors listen, the machine is there."""
        self._send("READY=1", f"MAINPID={os.getpid()}", f"STATUS={status}")
        if self._watchdog_ns:
            self._alive()

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send(f"STATUS={text}")

    def stopping(self, why: str) -> None:
        """The process is about to end; ``why`` stays in the unit's status."""
        self._send("STOPPING=1", f"STATUS={why}")

    def _alive(self) -> None:
        self._send("WATCHDOG=1")
        self._loop.call_later(max(self._watchdog_ns // 2, MIN_BEAT_NS), self._alive)

    def _send(self, *lines: str) -> None:
        self._notifier.notify("\n".join(lines))


def watchdog_ns(environment: Mapping[str, str]) -> int:
    """How often systemd wants to hear of us; 0: not at all (sd_watchdog_enabled(3))."""
    for_us = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    microseconds = environment.get("WATCHDOG_USEC", "")
    return int(microseconds) * 1000 if for_us and microseconds.isdecimal() and len(microseconds) < 16 else 0
