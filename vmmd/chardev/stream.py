# SPDX-License-Identifier: Apache-2.0
"""Character devices over file descriptors: reading with flow control, partial writes, hang-ups.

Reading stops (no descriptor is watched, so no busy loop) while the frontend takes nothing, and goes on at
``accept_input``. A peer that leaves while reading is held back is still noticed: an epoll set without wanted events
reports only the hang-up; what the peer had sent is then taken into a bounded buffer, and delivered as there is room.
"""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING

from vmmd.chardev.base import CHUNK_BYTES, PACE_NS, Chardev
from vmmd.core.backend import CharEvent, OrderedFrontend, ScatterFrontend

if TYPE_CHECKING:
    import threading

    from vmmd.chardev.logfile import LogFile
    from vmmd.chardev.options import CharOptions, PeerOptions
    from vmmd.core.notify import LoopPort

#: Reads of one turn of the loop
READS_A_TURN = 8
#: Input of a peer that has left, kept for the guest
INBOX_BYTES = 1 << 20


class StreamChardev(Chardev):
    """One input and one output descriptor (often the same), both non-blocking or known not to block."""

    def __init__(self, config: CharOptions, loop: LoopPort, lock: threading.Lock, log: LogFile | None = None) -> None:
        super().__init__(config, loop, lock, log)
        self._read_fd = -1
        self._write_fd = -1
        self._pollable = True  # False: a regular file, which is always readable
        self._output_pollable = True  # the same of the output
        self._may_block = False  # reading without input would wait: the descriptor's flags are not ours
        self._reading = False  # _read_fd is watched
        self._paused = False  # the frontend took nothing
        self._ending = False  # the peer's end of input, or the next peer, waits for the frontend's answers
        self._resume_posted = False
        self._writing = -1  # the descriptor watched for room, or -1
        self._inbox = bytearray()
        self._kept = bytearray()  # output for the next peer, which the log has already
        self.dropped_input_bytes = 0
        self._hangups: select.epoll | None = None
        self._peer_options: PeerOptions | None = None  # where peers come and go

    @property
    def connected(self) -> bool:
        return self._write_fd >= 0 or self._read_fd >= 0

    # -- host to guest -----------------------------------------------------------------------------------------

    def accept_input(self) -> None:
        if (self._paused or self._ending) and not self._resume_posted:
            self._resume_posted = True
            self._loop.post(self._resume)

    def _attached(self) -> None:
        super()._attached()
        self._resume()

    def _resume(self) -> None:
        self._resume_posted = False
        if self._closed:
            return
        self._paused = self._ending = False
        if self._inbox:
            self._deliver_inbox()
        if not self._paused and self._read_fd >= 0:
            self._watch_input()

    def _watch_input(self) -> None:
        """Read when there is something. Loop thread."""
        self._unwatch_hangup()
        if self._inbox:
            self._paused = True  # what the former peer sent comes first
            self._watch_hangup()
        elif not self._pollable:
            self._loop.post(self._readable)
        elif not self._reading:
            self._reading = True
            self._loop.add_reader(self._read_fd, self._readable)

    def _unwatch_input(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._read_fd)

    def _readable(self) -> None:
        """Read until there is no more now, or the frontend takes no more. Loop thread.

        ORDERING: uvloop tells a reader once and never again of a socket with an error (the peer closed it and had not
        read all), so the end has to be found now or by the look that is posted here.
        """
        for turn in range(READS_A_TURN):
            if (turn and self._may_block and not _has_input(self._read_fd)) or not self._read_some():
                return
        self._loop.post(self._look_again)

    def _look_again(self) -> None:
        if self._reading or not self._pollable:
            self._readable()

    def _read_some(self) -> bool:
        """Move at most as many bytes as the frontend takes; False when that was all for now."""
        if self._read_fd < 0 or self._paused:
            return False
        if isinstance(self.frontend, ScatterFrontend):
            return self._read_into(self.frontend)
        data: bytes | None = None
        with self._lock:
            frontend = self.frontend
            room = frontend.can_receive() if frontend is not None else 0
            if frontend is None or room <= 0:
                # ORDERING: under the lock, so that the guest's next read of the device sees _paused
                self._paused = True
            else:
                data = self._receive(min(room, CHUNK_BYTES))
                if data:
                    frontend.receive(data)
                elif data == b"" and self._answering():
                    self._paused = self._ending = True  # the end is read again when all has been answered
        if self._paused:
            self._unwatch_input()
            self._watch_hangup()
        elif data == b"":
            self._unwatch_input()
            self._emit_rest()
            self._hung_up()
        return bool(data) and not self._paused

    def _read_into(self, frontend: ScatterFrontend) -> bool:
        """``_read_some`` into the front end's own buffers."""
        buffers = frontend.input_buffers()
        if not buffers:
            self._paused = True
            self._unwatch_input()
            self._watch_hangup()
            return False
        try:
            count = os.readv(self._read_fd, buffers)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            count = 0
        if count:
            frontend.input_done(count)
            return True
        self._unwatch_input()
        self._emit_rest()
        self._hung_up()
        return False

    def _receive(self, limit: int) -> bytes | None:
        """Bytes from the peer, b"" when it has left, None when there are none now."""
        try:
            return os.read(self._read_fd, limit)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""

    def take_over(self, old: Chardev) -> None:
        """Also what ``old`` was sent and could not deliver yet."""
        if isinstance(old, StreamChardev):
            self._inbox += old.undelivered()
        super().take_over(old)

    def undelivered(self) -> bytearray:
        """Take out all input that the front end has not got, up to a bound. Loop thread."""
        inbox, self._inbox = self._inbox, bytearray()
        if self._read_fd < 0 or not self._pollable:
            return inbox
        while len(inbox) < INBOX_BYTES and _has_input(self._read_fd) and (data := self._receive(CHUNK_BYTES)):
            inbox += data
        return inbox

    def set_open(self, is_open: bool) -> None:
        peer = self._peer_options
        if is_open and not self.frontend_open and peer is not None and peer.stale_input == "drop":
            # what was sent while the guest's end was closed is nothing that it should see
            self.dropped_input_bytes += len(self.undelivered())
        super().set_open(is_open)

    def _deliver_inbox(self) -> None:
        with self._lock:
            while self._inbox:
                room = self.frontend.can_receive() if self.frontend is not None else 0
                if self.frontend is None or room <= 0:
                    self._paused = True
                    return
                data = bytes(self._inbox[:room])
                del self._inbox[: len(data)]
                self.frontend.receive(data)

    def _answering(self) -> bool:
        """The frontend has not answered all yet, or the peer has not taken all of it. DeviceLock held."""
        frontend = self.frontend
        return isinstance(frontend, OrderedFrontend) and (frontend.answering() or len(self._out) > 0)

    def _emit_all(self) -> None:
        super()._emit_all()
        if self._ending and not self._out:
            self.accept_input()

    def _emit_rest(self) -> None:
        """The peer sends no more, but may still read: what it was answered goes out before it is dropped."""
        if self._out and not self._blocked and self._write_fd >= 0:
            self._emit_all()

    # -- hang-ups ----------------------------------------------------------------------------------------------

    def _watch_hangup(self) -> None:
        if self._hangups is None and self._pollable and self._read_fd >= 0:
            self._hangups = select.epoll(1)
            self._hangups.register(self._read_fd, 0)  # errors and hang-ups are reported all the same
            self._loop.add_reader(self._hangups.fileno(), self._hung_up_while_paused)

    def _unwatch_hangup(self) -> None:
        if self._hangups is not None:
            self._loop.remove_reader(self._hangups.fileno())
            self._hangups.close()
            self._hangups = None

    def _hung_up_while_paused(self) -> None:
        self._unwatch_hangup()
        while data := self._receive(CHUNK_BYTES):
            room = max(0, INBOX_BYTES - len(self._inbox))
            self._inbox += data[:room]
            self.dropped_input_bytes += len(data[room:])
        with self._lock:
            if self._inbox and isinstance(self.frontend, OrderedFrontend):
                self.frontend.receive(bytes(self._inbox))
                self._inbox.clear()
        self._hung_up()

    def _hung_up(self) -> None:
        """The peer has left. Loop thread; input and hang-up watches are already off."""
        self._drop_peer()
        self._tell(CharEvent.CLOSED)
        if (self._out or self._starved) and not self._closed:
            self._writable()  # output meant for it is dropped, and a frontend that waits for room goes on

    def _drop_peer(self) -> None:
        """Forget the descriptors and the output meant for this peer."""
        self._unwatch_input()
        self._unwatch_hangup()
        self._unwatch_output()
        self._blocked = False
        self._read_fd = self._write_fd = -1

    # -- guest to host -----------------------------------------------------------------------------------------

    def _emit(self, chunk: bytearray) -> int:
        if self._write_fd < 0:
            self._keep(chunk)
            return len(chunk)
        try:
            return os.write(self._write_fd, chunk)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self.dropped_bytes += len(chunk)
            self._write_failed(error)
            return len(chunk)

    def _keep(self, chunk: bytearray) -> None:
        """There is no peer: the end of its output is for the next one, or for nobody."""
        kept = self._kept
        limit = 0 if self._peer_options is None else self._peer_options.replay
        if limit:
            kept += chunk
        excess = len(kept) - limit if limit else len(chunk)
        if excess > 0:
            self.dropped_bytes += excess
            del kept[:excess]

    @property
    def kept_bytes(self) -> int:
        """Output that waits for the next peer."""
        return len(self._kept)

    def _replay(self) -> None:
        """There is a peer: it gets what was kept before anything else. Loop thread."""
        kept, self._kept = self._kept, bytearray()
        self._out[:0] = kept  # ORDERING: devices append at the other end
        self._logged += len(kept)
        if kept:
            self._loop.post(self._writable)

    def _emit_politely(self, chunk: bytearray) -> int:
        """``_emit`` for a descriptor that may be blocking and whose flags are not ours to change: the kernel calls a
        pipe or terminal writable when PIPE_BUF bytes fit (pipe(7)), so that no more than these are written at once.

        LIMIT: another process that fills the same pipe between the two calls can still make the write wait.
        """
        poller = select.poll()
        poller.register(self._write_fd, select.POLLOUT)
        done = 0
        while done < len(chunk):
            if not poller.poll(0):
                break
            part = StreamChardev._emit(self, chunk[done : done + select.PIPE_BUF])
            if not part:
                break
            done += part
        return done

    def _write_failed(self, error: OSError) -> None:
        """A write failed for good: by default the peer is gone."""
        self._unwatch_input()
        self._unwatch_hangup()
        self._hung_up()

    def _wait_room(self, deadline_ns: int) -> bool:
        left_ms = (deadline_ns - time.monotonic_ns()) // 1_000_000
        if self._write_fd < 0 or left_ms <= 0:
            return False
        poller = select.poll()
        poller.register(self._write_fd, select.POLLOUT)
        return bool(poller.poll(left_ms))

    def _wait_writable(self) -> None:
        if not self._output_pollable:
            # a regular file took a part: the disk is full, which the next write says
            self._loop.call_later(PACE_NS, self._writable)
        elif self._write_fd >= 0 and self._writing < 0:
            self._writing = self._write_fd
            self._loop.add_writer(self._writing, self._room)

    def _unwatch_output(self) -> None:
        if self._writing >= 0:
            self._loop.remove_writer(self._writing)
            self._writing = -1

    def _room(self) -> None:
        self._unwatch_output()
        self._writable()


def _has_input(fd: int) -> bool:
    """A read does not wait now."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(0))
