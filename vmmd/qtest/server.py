# SPDX-License-Identifier: Apache-2.0
"""The qtest server: the front end of the ``-qtest`` character device.

One request is served a turn of the loop, so that sockets, disks and monitors go on between two. Loop thread;
``receive`` and ``handle_event`` come with the DeviceLock held, replies go out without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.backend import CharEvent
from vmmd.log import get_logger
from vmmd.qtest.protocol import LINE_BYTES_MAX, LineSplitter, RequestError
from vmmd.qtest.requests import Requests, TimePasses

if TYPE_CHECKING:
    from vmmd.chardev.base import Chardev
    from vmmd.core.notify import LoopPort
    from vmmd.machine.vm import Vm
    from vmmd.qtest.log import TrafficLog

log = get_logger("vmmd.qtest")

#: bytes taken from the client at once
_ROOM = 1 << 20
#: no request is served while more than this waits for a client that does not read
_BACKLOG_BYTES = 1 << 20
#: handed to the character device at once
_PIECE_BYTES = 1 << 18


class QtestServer:
    """Serves one client at a time. Implements ``core.backend.OrderedFrontend``."""

    def __init__(self, vm: Vm, loop: LoopPort, backend: Chardev, traffic: TrafficLog | None) -> None:
        self._vm = vm
        self._loop = loop
        self._backend = backend
        self._traffic = traffic
        self._splitter = LineSplitter()
        self._requests = Requests(vm, self._report)
        self._out = bytearray()  # lines for the client
        self._work_posted = False
        self._full = False  # the client is not read from until there is room
        self._stalled = False  # requests wait for the client to read its replies
        self._target_ns: int | None = None  # where virtual time is on its way to

    def attach(self) -> None:
        """Become the character device's front end. DeviceLock held. Raises UsageError."""
        self._backend.attach(self)
        self._backend.set_open(True)

    # -- CharFrontend ----------------------------------------------------------------------------------------------

    def can_receive(self) -> int:
        self._full = len(self._splitter) > LINE_BYTES_MAX
        return 0 if self._full else _ROOM

    def receive(self, data: bytes) -> None:
        self._splitter.feed(data)
        self._work_soon()

    def handle_event(self, event: CharEvent) -> None:
        if event is CharEvent.OPENED:
            self._splitter.clear()
            self._out.clear()
            self._target_ns = None  # the step of a client that is gone is answered to nobody
            self._requests.forget_levels()
            self._note("OPENED")
        elif event is CharEvent.CLOSED:
            self._splitter.end()  # whole requests are still served
            if self._target_ns is not None and not self._backend.connected:
                self._requests.clock.hurry()
            self._note("CLOSED")

    def answering(self) -> bool:
        return self._work_posted or self._target_ns is not None or bool(self._out)

    def write_ready(self) -> None:
        self._loop.post(self._send)

    # -- work ------------------------------------------------------------------------------------------------------

    def _work_soon(self) -> None:
        if not self._work_posted:
            self._work_posted = True
            self._loop.post(self._work)

    def _work(self) -> None:
        """Serve one request, or go on with one that takes several turns."""
        self._work_posted = False
        if len(self._out) > _BACKLOG_BYTES:
            self._stalled = True  # ``_send`` goes on with it
            return
        with self._vm.lock:
            served = self._go_on() if self._target_ns is not None else self._serve_next()
        if self._target_ns is not None or (served and self._splitter):
            self._work_soon()
        if self._full and len(self._splitter) <= LINE_BYTES_MAX:
            self._backend.accept_input()
        self._send()

    def _serve_next(self) -> bool:
        """False: no request is there."""
        try:
            line = self._splitter.take()
            if line is None:
                return False
            if self._traffic is not None:
                self._traffic.received(line)
            self._reply(self._requests.serve(line))
        except RequestError as refusal:
            self._reply(str(refusal).encode())
        except TimePasses as passes:
            self._target_ns = passes.target_ns
        except Exception:  # a bug of a device must not take the server away (architecture §3 L8)
            log.exception("a request failed")
            self._reply(b"FAIL internal error, see the log")
        return True

    def _go_on(self) -> bool:
        """Move virtual time on, as far as one turn goes."""
        assert self._target_ns is not None
        if self._requests.clock.advance_to(self._target_ns):
            self._target_ns = None
            self._reply(self._requests.clock_reply())
        return True

    def _reply(self, line: bytes) -> None:
        self._report(line)

    def _report(self, line: bytes) -> None:
        if self._traffic is not None:
            self._traffic.sent(line)
        if self._backend.connected:
            self._out += line
            self._out += b"\n"

    def _send(self) -> None:
        """Out with what the client takes now; serve on when it has caught up, or has gone."""
        out = self._out
        while out:
            piece = bytes(out[:_PIECE_BYTES])
            taken = self._backend.write_now(piece)
            del out[:taken]
            if taken < len(piece):
                return
        if self._stalled:
            self._stalled = False
            self._work_soon()
        elif not self._work_posted:
            self._backend.accept_input()  # the end of input may have waited for it

    def _note(self, event: str) -> None:
        if self._traffic is not None:
            self._traffic.event(event)
