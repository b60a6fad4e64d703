# SPDX-License-Identifier: Apache-2.0
"""The queue of a netdev whose frames travel in a byte stream (``frames``): one connection at a time. Loop thread.

The loop watches the connection whether the guest has posted buffers or not, until the buffer here is full: so the
peer's end is seen, and nothing is switched per frame. Then the kernel's buffers fill, and the peer waits. The other way
a frame of which the kernel takes a part is kept and finished; until then the guest waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.net.frames import HEADER, MAX_FRAME_BYTES, FrameBuffer, scatter

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from vmmd.core.backend import NetFrontend
    from vmmd.core.notify import LoopPort


#: frames thrown away in one turn of the loop
_DISCARDED_AT_ONCE = 256
#: receptions in one turn
_READS_A_TURN = 4


class StreamQueue:
    """NetQueue. ``serve`` gives it a connection, ``hang_up`` takes it away."""

    def __init__(self, loop: LoopPort, ended: Callable[[str], None]) -> None:
        """``ended(why)`` is called when the connection is of no use any more; ``hang_up`` is to follow."""
        self.dropped = 0
        self._loop = loop
        self._ended = ended
        self._frames = FrameBuffer()
        self._left: FrameBuffer | None = None  # has frames of the connection before
        self._sock: socket.socket | None = None
        self._frontend: NetFrontend | None = None
        self._wanted = False
        self._cut = False
        self._reading = False  # the loop watches for input
        self._posted = False  # _deliver comes in the loop's next turn
        self._rest = b""  # of a frame of which the kernel has taken a part
        self._blocked = False  # the loop watches for room
        self._refused = False  # write gave False: the frontend waits

    # --- connection -------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self._sock is not None

    def serve(self, sock: socket.socket) -> None:
        """Frames go to and come from ``sock``, non-blocking, from now on."""
        self._sock = sock
        self._watch()

    def hang_up(self) -> None:
        """Close the connection, if there is one; whole frames that came are still given out. Idempotent."""
        sock, self._sock = self._sock, None
        if sock is None:
            return
        if self._reading:
            self._loop.remove_reader(sock.fileno())
        if self._blocked:
            self._loop.remove_writer(sock.fileno())
        self._reading = self._blocked = False
        sock.close()
        if self._left is None and self._frames.has_frame():
            self._left = self._frames
        self._frames = FrameBuffer()
        self._rest = b""
        self._let_go()

    def _has_frame(self) -> bool:
        return (self._left is not None and self._left.has_frame()) or self._frames.has_frame()

    def _take(self) -> memoryview | None:
        """The next frame."""
        if self._left is not None:
            frame = self._left.take()
            if frame is not None:
                return frame
            self._left = None
        return self._frames.take()

    # --- NetQueue ---------------------------------------------------------------------------------------------

    def attach(self, frontend: NetFrontend) -> None:
        self._frontend = frontend

    def detach(self) -> None:
        self._frontend = None
        self._wanted = self._refused = False

    def watch(self, wanted: bool) -> None:
        self._wanted = wanted
        if wanted and self._has_frame():
            self._deliver_soon()

    def read(self, buffers: Sequence[memoryview]) -> int:
        if self._cut:
            return 0
        frame = self._frames.take() if self._left is None else self._take()
        if frame is not None:
            return scatter(frame, buffers)
        if self._frames.oversized:
            self._deliver_soon()
        elif not self._reading:
            self._watch()
        return 0

    def write(self, buffers: Sequence[memoryview]) -> bool:
        sock = self._sock
        length = sum(map(len, buffers))
        if self._cut or sock is None or length > MAX_FRAME_BYTES:
            self.dropped += 1
            return True
        if self._blocked:
            self._refused = True
            return False
        header = HEADER.pack(length)
        try:
            sent = sock.sendmsg([header, *buffers])
        except BlockingIOError:
            self._refused = True
            self._wait_for_room(sock)
            return False
        except OSError as error:
            self.dropped += 1
            self._loop.post(self._failed, sock, error.strerror or "it failed")
            return True
        if sent < len(header) + length:
            self._rest = b"".join([header, *buffers])[sent:]
            self._wait_for_room(sock)
        return True

    def set_cut(self, cut: bool) -> None:
        """The link is down at one end, or up at both."""
        self._cut = cut
        if cut:
            self._loop.post(self._let_go)  # what waits for room is dropped; not here: the DeviceLock may be held
            self._deliver_soon()

    # --- the loop's calls -------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._sock is not None:
            self._reading = True
            self._loop.add_reader(self._sock.fileno(), self._readable)
            self._loop.post(self._look_again)

    def _wait_for_room(self, sock: socket.socket) -> None:
        if not self._blocked:
            self._blocked = True
            self._loop.add_writer(sock.fileno(), self._writable)

    def _readable(self) -> None:
        """Take what has come, until there is no more now.

        ORDERING: uvloop tells a reader once and never again of a socket with an error (the peer closed it and had not
        read all), so the end has to be found now or by the look that is posted here.
        """
        more, ending = True, None
        for _ in range(_READS_A_TURN):
            more, ending = self._receive()
            if not more:
                break
        self._deliver()
        if self._sock is None:
            return  # the frames were none
        if ending is not None:
            self._ended(ending)
        elif more:
            self._loop.post(self._look_again)

    def _look_again(self) -> None:
        if self._reading:
            self._readable()

    def _receive(self) -> tuple[bool, str | None]:
        """Whether there may be more now; why the connection is over, if it is."""
        sock, room = self._sock, self._frames.room()
        if sock is None:
            return False, None
        if not room:
            self._reading = False
            self._loop.remove_reader(sock.fileno())
            return False, None
        try:
            count = sock.recv_into(room)
        except BlockingIOError:
            return False, None
        except OSError as error:
            return False, error.strerror or "it failed"
        if count == 0:
            return False, ""
        self._frames.received(count)
        return True, None

    def _deliver_soon(self) -> None:
        if not self._posted:
            self._posted = True
            self._loop.post(self._deliver_posted)

    def _deliver_posted(self) -> None:
        self._posted = False
        self._deliver()

    def _deliver(self) -> None:
        """Tell the frontend; what it does not take at once waits for the next turn, or until it wants more."""
        if self._cut:
            self._discard()
        elif self._wanted and self._frontend is not None and self._has_frame():
            self._frontend.readable()
            if self._wanted and self._has_frame():
                self._deliver_soon()
        else:
            self._frames.has_frame()  # looks at the next length
        if self._frames.oversized:
            self._ended(f"it sent a frame of {self._frames.oversized} bytes, {MAX_FRAME_BYTES} are possible")

    def _discard(self) -> None:
        for _ in range(_DISCARDED_AT_ONCE):
            if self._take() is None:
                break
            self.dropped += 1
        else:
            self._deliver_soon()
        if not self._reading:
            self._watch()

    def _writable(self) -> None:
        sock = self._sock
        if sock is None:
            return
        if self._rest:
            try:
                self._rest = self._rest[sock.send(self._rest) :]
            except BlockingIOError:
                return
            except OSError as error:
                self._ended(error.strerror or "it failed")
                return
            if self._rest:
                return
        self._blocked = False
        self._loop.remove_writer(sock.fileno())
        self._let_go()

    def _let_go(self) -> None:
        """The frontend may write again."""
        if self._refused:
            self._refused = False
            if self._frontend is not None:
                self._frontend.writable()

    def _failed(self, sock: socket.socket, why: str) -> None:
        if sock is self._sock:
            self._ended(why)
