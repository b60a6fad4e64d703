# SPDX-License-Identifier: Apache-2.0
"""``-chardev pty``: a pseudo-terminal in raw mode; its path is printed at the start, told to who adds it later, and
shown by ``query-chardev``.

While no program has the terminal open, output is dropped (the log has it) as QEMU does. That somebody opened it is
noticed at the next output, or when it sends its first byte; no timer polls for it.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

from vmmd.chardev.stream import StreamChardev
from vmmd.core.backend import CharEvent
from vmmd.errors import BackendError

if TYPE_CHECKING:
    import threading

    from vmmd.chardev.logfile import LogFile
    from vmmd.chardev.options import CharOptions, PeerOptions
    from vmmd.core.notify import LoopPort

_STDOUT = 1


class PtyChardev(StreamChardev):
    config: PeerOptions

    def __init__(self, config: CharOptions, loop: LoopPort, lock: threading.Lock, log: LogFile | None = None) -> None:
        super().__init__(config, loop, lock, log)
        self._peer_options = self.config
        self.slave_path = ""
        self._master = -1
        self._arrivals: select.epoll | None = None

    @property
    def filename(self) -> str:
        return f"pty:{self.slave_path}"

    @property
    def place(self) -> str:
        """Where the terminal is, for people."""
        # QEMU-COMPAT: scripts look for this sentence
        return f"char device redirected to {self.slave_path} (label {self.label})"

    def _open(self) -> None:
        import tty

        try:
            self._master, slave = os.openpty()
            try:
                self.slave_path = os.ttyname(slave)
                tty.setraw(slave)
            finally:
                os.close(slave)
            os.set_blocking(self._master, False)
        except OSError as error:
            raise BackendError.from_os("Failed to create PTY", error) from error
        if self.patience_s is None:  # at the start; later, who asks for it is told
            self._announce()
        self._loop.post(self._watch_arrival)

    def _announce(self) -> None:
        try:
            os.write(_STDOUT, f"{self.place}\n".encode())
        except OSError:
            pass  # nobody is there to read it

    def _close(self) -> None:
        self._drop_peer()
        self._unwatch_arrival()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def _peer_present(self) -> bool:
        poller = select.poll()
        poller.register(self._master, select.POLLIN | select.POLLOUT)
        events = poller.poll(0)
        return not events or not events[0][1] & select.POLLHUP or bool(events[0][1] & select.POLLIN)

    def _watch_arrival(self) -> None:
        """Edge-triggered, because a terminal nobody has open reports a hang-up without end."""
        if self._master >= 0 and self._arrivals is None:
            self._arrivals = select.epoll(1)
            self._arrivals.register(self._master, select.EPOLLIN | select.EPOLLET)
            self._loop.add_reader(self._arrivals.fileno(), self._maybe_arrived)

    def _unwatch_arrival(self) -> None:
        if self._arrivals is not None:
            self._loop.remove_reader(self._arrivals.fileno())
            self._arrivals.close()
            self._arrivals = None

    def _maybe_arrived(self) -> None:
        if self._arrivals is not None:
            self._arrivals.poll(0)
        if self._master >= 0 and self._write_fd < 0 and self._peer_present():
            self._unwatch_arrival()
            self._read_fd = self._write_fd = self._master
            self._replay()
            self._tell(CharEvent.OPENED)
            self._paused = False
            self._watch_input()

    def _emit(self, chunk: bytearray) -> int:
        if self._write_fd < 0:
            kept = len(self._kept)
            self._maybe_arrived()
            if kept and self._write_fd >= 0:
                return 0  # what was kept stands before it now
        return super()._emit(chunk)

    def _hung_up(self) -> None:
        super()._hung_up()
        self._watch_arrival()
