# SPDX-License-Identifier: Apache-2.0
"""A queue on a descriptor: when the loop watches it, and what happens while the link is cut. Loop thread.

Watching is switched lazily: most of the time the guest has buffers again before the next frame comes, and telling the
loop costs more than a frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmmd.core.backend import NetFrontend
    from vmmd.core.notify import LoopPort

#: frames thrown away in one turn of the loop
_DISCARDED_AT_ONCE = 32


class FdQueue:
    """Subclasses read and write frames; ``write`` that has no room calls ``wait_for_room``."""

    def __init__(self, loop: LoopPort, fd: int) -> None:
        self.fd = fd
        self.dropped = 0
        self.cut = False
        self._loop = loop
        self._frontend: NetFrontend | None = None
        self._wanted = False
        self.enabled = True
        self._stopped = False
        self._reading = False  # the loop watches it
        self._writing = False

    def attach(self, frontend: NetFrontend) -> None:
        self._frontend = frontend

    def detach(self) -> None:
        self._frontend = None
        self._wanted = False
        self._unwatch()

    def stop(self) -> None:
        """Nothing is read or sent any more, whatever is asked: the descriptor may be somebody else's soon.
        Idempotent."""
        self._stopped = self.cut = True
        self._unwatch()

    def read(self, buffers: Sequence[memoryview]) -> int:
        raise NotImplementedError

    def write(self, buffers: Sequence[memoryview]) -> bool:
        raise NotImplementedError

    def discard(self) -> bool:
        """Throw the next frame away; False when none waits."""
        raise NotImplementedError

    def watch(self, wanted: bool) -> None:
        self._wanted = wanted
        if wanted and not self._reading:
            self._watch()

    def set_cut(self, cut: bool) -> None:
        self.cut = cut or self._stopped
        if cut:
            self._watch()
        if self._writing:  # what waits for room is dropped; not here: the DeviceLock may be held
            self._loop.post(self._writable)

    def set_enabled(self, enabled: bool) -> None:
        """The guest uses it; one that is off must not be watched (the kernel reports an error without end)."""
        self.enabled = enabled
        if not enabled:
            self._unwatch()
        elif self._wanted or self.cut:
            self._watch()

    def wait_for_room(self) -> None:
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self.fd, self._writable)

    def _watch(self) -> None:
        if self.enabled and not (self._reading or self._stopped):
            self._reading = True
            self._loop.add_reader(self.fd, self._readable)

    def _unwatch(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self.fd)
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self.fd)

    def _readable(self) -> None:
        if self.cut:
            for _ in range(_DISCARDED_AT_ONCE):
                if not self.discard():
                    return
                self.dropped += 1
        elif self._wanted and self._frontend is not None:
            self._frontend.readable()
        else:
            self._reading = False
            self._loop.remove_reader(self.fd)

    def _writable(self) -> None:
        if not self._writing:
            return
        self._writing = False
        self._loop.remove_writer(self.fd)
        if self._frontend is not None:
            self._frontend.writable()
