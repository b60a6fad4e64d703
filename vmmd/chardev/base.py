# SPDX-License-Identifier: Apache-2.0
"""What all character devices share: the bounded output buffer, coalesced wake-ups, the log, the frontend.

Output path: a device calls ``write`` on a vCPU thread, which appends to a bytearray and, if no wake-up is under way,
posts one to the loop. The loop flushes; the next wake-up comes no sooner than a millisecond later, so that a guest
which prints byte by byte costs the loop at most a thousand rounds a second. The vCPU never touches a host descriptor.

Life: construct (no side effects) → ``open`` (system calls, before or while the loop runs) → ``close``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vmmd.core.backend import CharEvent, SwappableFrontend
from vmmd.core.trace_events import CHARDEV_EVENT
from vmmd.errors import UsageError

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from vmmd.chardev.logfile import LogFile
    from vmmd.chardev.options import CharOptions
    from vmmd.core.backend import CharFrontend
    from vmmd.core.created import CreatedFile
    from vmmd.core.notify import LoopPort

#: Most bytes that wait for a slow reader; then ``write`` takes nothing
BUFFER_BYTES = 1 << 20
#: After the first byte, flushes are at least this far apart
PACE_NS = 1_000_000
#: A log that is a pipe is looked at again when it was full
LOG_RETRY_NS = 20_000_000
#: How long ``close`` waits for a reader that is slow
LAST_WORDS_NS = 500_000_000
#: Bytes moved by one system call
CHUNK_BYTES = 65536


class Chardev:
    """Base of all backends; implements ``core.backend.CharBackend``."""

    def __init__(self, config: CharOptions, loop: LoopPort, lock: threading.Lock, log: LogFile | None = None) -> None:
        self.label = config.id
        self.config = config
        self.frontend: CharFrontend | None = None
        self.frontend_open = False
        self.dropped_bytes = 0  # output that no peer could take
        self.log = log
        self._loop = loop
        self._lock = lock  # the DeviceLock
        self._out = bytearray()  # ORDERING: devices only append, the loop only removes from the front
        self._logged = 0  # bytes at the front of _out that the log has
        self._wake = False  # a flush is posted or the pace timer runs
        self._starved = False  # the frontend waits for write_ready
        self._blocked = False  # the peer takes no more; waiting for it to become writable
        self._closed = False
        self._retiring = False  # no device uses it any more; what is buffered still goes out
        self.patience_s: float | None = None  # with a peer that does not answer; None: as long as it takes
        self._created: CreatedFile | None = None

    # -- what query-chardev shows ------------------------------------------------------------------------------

    @property
    def filename(self) -> str:
        """As QEMU's ``query-chardev`` shows it."""
        return self.config.backend

    @property
    def connected(self) -> bool:
        return True

    @property
    def open_may_wait(self) -> bool:
        """True when ``open`` may wait for somebody else: with the loop running it then belongs on a thread."""
        return False

    # -- life --------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Acquire host resources. Raises BackendError and leaves nothing behind."""
        if self.log is not None:
            self.log.open()
        try:
            self._open()
        except BaseException:
            self._close()
            if self.log is not None:
                self.log.close()
            raise

    def close(self) -> None:
        """Write out what is buffered, waiting half a second at most for a slow reader; then give everything back. Loop
        thread. Idempotent."""
        if self._closed:
            return
        self._closed = True
        deadline_ns = time.monotonic_ns() + LAST_WORDS_NS
        while self._out:
            self._blocked = False
            self._flush()
            if not self._blocked or not self._wait_room(deadline_ns):
                break
        self.dropped_bytes += len(self._out)
        self._close()
        if self.log is not None:
            self.log.close()

    def reopen(self) -> list[str]:
        """Open the files that it writes again by their names, which somebody has moved: these names. Raises
        BackendError; a file that cannot be opened stays as it is. Loop thread."""
        if self.log is None:
            return []
        self._emit_all()
        self.log.reopen()
        return [self.log.path]

    def retire(self) -> None:
        """No device uses it any more: close as soon as what is buffered has gone out, but in half a second at the
        latest; nobody waits for it. Loop thread."""
        self._retiring = True
        self._flush()
        if not self._closed:
            self._loop.call_later(LAST_WORDS_NS, self._give_up)

    def _give_up(self) -> None:
        self.dropped_bytes += len(self._out)
        self._out.clear()
        self.close()

    def take_over(self, old: Chardev) -> None:
        """Get the front end of ``old``, which goes. Loop thread, DeviceLock held."""
        frontend, starved = old.frontend, old._starved
        was_open, was_connected = old.frontend_open, old.connected
        old.detach()
        if not isinstance(frontend, SwappableFrontend):
            return
        self.frontend = frontend
        self.frontend_open = was_open
        frontend.replace_backend(self)
        if was_connected:
            frontend.handle_event(CharEvent.CLOSED)
        if starved:
            frontend.write_ready()
        self._loop.post(self._attached)

    def send_break(self) -> None:
        """Let the device see a break condition; one that has none ignores it. Loop thread."""
        self._tell(CharEvent.BREAK)

    def remove_created(self) -> None:
        """The start failed, everything is closed: take away the files that ``open`` made."""
        for created in (self._created, self.log.created if self.log is not None else None):
            if created is not None:
                created.remove()

    def _open(self) -> None:
        """Backend-specific part of ``open``."""

    def _close(self) -> None:
        """Backend-specific part of ``close``; also undoes a half-done ``_open``."""

    # -- the frontend ------------------------------------------------------------------------------------------

    def attach(self, frontend: CharFrontend) -> None:
        if self.frontend is not None:
            # QEMU-COMPAT: the sentence of -device isa-serial,chardev= naming a chardev that has a user
            raise UsageError(f"Device '{self.label}' is in use")
        self.frontend = frontend
        self._loop.post(self._attached)

    def detach(self) -> None:
        self.frontend = None
        self.frontend_open = False
        self._starved = False

    def set_open(self, is_open: bool) -> None:
        self.frontend_open = is_open

    def _attached(self) -> None:
        """The frontend is new: tell it that there is a peer."""
        if self.connected:
            self._tell(CharEvent.OPENED)

    def _tell(self, event: CharEvent) -> None:
        if CHARDEV_EVENT.on:
            CHARDEV_EVENT(self.label, event.name.lower())
        with self._lock:
            if self.frontend is not None:
                self.frontend.handle_event(event)

    # -- guest to host -----------------------------------------------------------------------------------------

    def write(self, data: bytes) -> int:
        count = self._fill(data)
        if not self._wake:
            self._wake = True
            self._loop.post(self._flush)
        return count

    @property
    def waiting_bytes(self) -> int:
        """Output that the peer has not taken yet."""
        return len(self._out)

    def _fill(self, data: bytes) -> int:
        """Into the buffer, as much as there is room for."""
        out = self._out
        room = BUFFER_BYTES - len(out)
        count = len(data)
        if count > room:
            self._starved = True
            data = data[: max(room, 0)]
            count = len(data)
        out.extend(data)
        return count

    def write_now(self, data: bytes) -> int:
        """``write`` for a front end that answers somebody: out at once, as far as the peer takes it; ``write_ready``
        follows when that was not all. Loop thread, without the DeviceLock."""
        done = 0
        while done < len(data) and not self._blocked:
            done += self._fill(data[done : done + BUFFER_BYTES])
            self._emit_all()
        self._starved = done < len(data)
        return done

    def write_views(self, views: Sequence[memoryview]) -> int:
        """Output that stays where it is, in guest RAM, until the peer takes it: how many bytes are done with;
        ``write_ready`` follows when that was not all. Loop thread, without the DeviceLock."""
        self._emit_all()
        if self._out or self._blocked:  # what was said before comes first
            self._starved = True
            return 0
        size = sum(map(len, views))
        taken = self._emit_views(views)
        if self.log is not None and taken:
            self._write_log(b"".join(views)[:taken])
        self._starved = taken < size
        if self._starved:
            self._blocked = True
            self._wait_writable()
        return taken

    def _emit_views(self, views: Sequence[memoryview]) -> int:
        """``_emit`` of several buffers."""
        return self._emit(bytearray().join(views))

    def accept_input(self) -> None:
        """Nothing to resume: this backend has no input."""

    def _flush(self) -> None:
        """Log and emit what is buffered, then pace. Loop thread."""
        self._emit_all()
        if self._retiring and not self._out:
            self.close()
        if self._closed:
            return
        if self._starved:
            self._feed_starved()
        self._loop.call_later(PACE_NS, self._paced)

    def _emit_all(self) -> None:
        """Log and emit what is buffered, as far as the peer takes it. Loop thread."""
        out = self._out
        if self.log is not None and len(out) > self._logged:
            fresh = out[self._logged :]
            self._write_log(fresh)
            self._logged += len(fresh)
        while out and not self._blocked:
            chunk = out[:CHUNK_BYTES]
            taken = self._emit(chunk)
            del out[:taken]
            self._logged = max(0, self._logged - taken)
            if taken < len(chunk):
                self._blocked = True
                if not self._closed:
                    self._wait_writable()

    def _write_log(self, data: bytes | bytearray) -> None:
        log = self.log
        assert log is not None  # the callers have looked
        waited = log.waiting
        log.write(data)
        if log.waiting and not waited and not self._closed:
            self._loop.call_later(LOG_RETRY_NS, self._retry_log)

    def _retry_log(self) -> None:
        if self.log is not None and not self._closed:
            self.log.retry()
            if self.log.waiting:
                self._loop.call_later(LOG_RETRY_NS, self._retry_log)

    def _paced(self) -> None:
        """A millisecond after a flush: flush what came meanwhile, or let the next write wake the loop."""
        # ORDERING: clear the flag first, then look: a writer appends first, then looks at the flag
        self._wake = False
        if self._closed:
            return
        waiting = len(self._out)
        work = waiting > self._logged and self.log is not None if self._blocked else waiting > 0
        if work or (self._starved and waiting <= BUFFER_BYTES // 2):
            self._wake = True
            self._flush()

    def _feed_starved(self) -> None:
        if len(self._out) > BUFFER_BYTES // 2:
            return
        with self._lock:
            if self._starved:
                self._starved = False
                if self.frontend is not None:
                    self.frontend.write_ready()

    def _emit(self, chunk: bytearray) -> int:
        """Hand bytes to the host without blocking; returns how many need no further care. Loop thread."""
        return len(chunk)

    def _wait_room(self, deadline_ns: int) -> bool:
        """Block until the peer takes more, or the deadline; for ``close``."""
        return False

    def _wait_writable(self) -> None:
        """Arrange for ``_writable`` to be called once when the peer takes bytes again."""

    def _writable(self) -> None:
        """The peer takes bytes again. Loop thread."""
        self._blocked = False
        if self._starved and not self._out and not self._closed:  # who keeps its output itself goes on at once
            self._feed_starved()
        if not self._wake:
            self._wake = True
            self._flush()
