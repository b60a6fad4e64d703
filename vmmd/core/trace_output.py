# SPDX-License-Identifier: Apache-2.0
"""Where trace events and log items go: a bounded queue, and a thread that writes it to stderr or a file.

Whoever reports never waits: neither for the lines to be made nor for a full pipe or a slow disk. When the queue is
full, lines are dropped, and how many were is written when there is room again.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from vmmd.core.host_files import PATH_ACCEPTS, checked_path
from vmmd.errors import BackendError, UsageError
from vmmd.messages import messages, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    Values = tuple[object, ...]
    Render = Callable[[Values], str]

#: lines that wait to be written; with their values, some 5 MiB
QUEUE_MAX = 16384
#: lines of one write
_BATCH = 256
_STDERR = 2
_POLL_MS = 100


class TraceOutput:
    """The queue and its writer. ``put``, ``set_file``: any thread; the rest: loop thread, or before there is one."""

    def __init__(self, fd: int = _STDERR) -> None:
        self.path: str | None = None
        self.dropped = 0  # lines, since the start
        self._told = 0  # of these
        self._fd = fd  # the writer's
        self._standard_fd = fd
        self._next_fd: int | None = None  # of the file that is to be written next: there is a ``_switch`` in the queue
        #: lines to be made, and things for the writer to do in between
        self._queue: deque[tuple[Render, Values, tuple[int, int] | None] | Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._gate = threading.Lock()
        self._gate.acquire()
        self._asleep = False
        self._closing = False
        self._allowed = self._wanted = False
        self._thread: threading.Thread | None = None

    def put(self, render: Render, values: Values) -> None:
        """Have ``render(values)`` written. Any thread; never blocks."""
        queue = self._queue
        if len(queue) >= QUEUE_MAX:
            with self._lock:
                self.dropped += 1
            return
        queue.append((render, values, (time.time_ns(), threading.get_native_id()) if messages.timestamp else None))
        # ORDERING: append, then look whether the writer sleeps; it says that it will, then looks at the queue
        if self._asleep:
            self._wake()

    def put_line(self, line: str) -> None:
        """Have a ready-made line written, without a stamp of its own. Any thread; never blocks."""
        if len(self._queue) >= QUEUE_MAX:
            with self._lock:
                self.dropped += 1
            return
        self._queue.append((as_is, (line,), None))
        self.needed()
        if self._asleep:
            self._wake()

    def _wake(self) -> None:
        self._asleep = False
        try:
            self._gate.release()
        except RuntimeError:  # it was woken already
            pass

    def allow(self) -> None:
        """The process has forked for the last time: the writer's thread may be started."""
        self._allowed = True
        if self._queue or self._wanted:
            self.needed()

    def needed(self) -> None:
        """Something will be put: start the writer, once it is allowed. What is put earlier waits. Any thread."""
        self._wanted = True
        if self._allowed and self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._main, name="log writer", daemon=True)
                    self._thread.start()

    def set_file(self, path: str) -> None:
        """Write to this file, from its beginning, what is put from now on. ``%d`` in the name is the process's id.
        A file that is still to come is replaced; what the present one does not take at once then is dropped. Any
        thread; a slow disk is waited for. Raises UsageError, BackendError."""
        fd = _open(path)
        with self._lock:
            replaced, self._next_fd = self._next_fd, fd
            self.path = path
        if replaced is None:
            self._then(self._switch)
        else:
            os.close(replaced)

    def settle(self, timeout_s: float) -> bool:
        """Wait until everything that was put is written; False when that takes too long."""
        done = threading.Event()
        self._then(done.set)
        return done.wait(timeout_s)

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what waits, as far as that takes no longer than this, and end the writer."""
        self._closing = True
        self._wake()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _then(self, action: Callable[[], None]) -> None:
        self._queue.append(action)
        self.needed()
        self._wake()

    # -- the writer's thread ---------------------------------------------------------------------------------

    def _main(self) -> None:
        while True:
            while self._queue:
                self._write_some()
            if self._closing:
                return
            self._asleep = True
            if not self._queue:
                self._gate.acquire()
            self._asleep = False

    def _write_some(self) -> None:
        """The next lines, or the next thing to do."""
        queue = self._queue
        lines: list[str] = []
        while queue and len(lines) < _BATCH:
            entry = queue[0]
            if not isinstance(entry, tuple):
                if not lines:
                    queue.popleft()
                    entry()
                break
            queue.popleft()
            lines.append(_line(*entry))
        dropped, note = self.dropped, ""
        if dropped > self._told:
            note = f"vmmd: {dropped - self._told} lines of the log were dropped, it is written too slowly\n"
        if self._write("".join((*lines, note)).encode("utf-8", "backslashreplace")):
            self._told = dropped
        else:
            with self._lock:
                self.dropped += len(lines)

    def _write(self, data: bytes) -> bool:
        """False: not all was taken."""
        rest = memoryview(data)
        # stderr, unlike the files, waits; a pipe that is ready takes this much at once
        waits = self._fd == self._standard_fd
        piece_bytes = select.PIPE_BUF if waits else len(data)
        while rest:
            if waits and not self._has_room():
                return False
            try:
                rest = rest[os.write(self._fd, rest[:piece_bytes]) :]
            except BlockingIOError:  # a FIFO, or a stderr that is shared with somebody who set O_NONBLOCK
                waits = True
            except OSError:  # nobody reads any more, or the disk is full
                return False
        return True

    def _has_room(self) -> bool:
        """Wait until the file takes something; False when that is not now and another file is to be written instead."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while not poll.poll(0 if self._next_fd is not None else _POLL_MS):
            if self._next_fd is not None:
                return False
        return True

    def _switch(self) -> None:
        with self._lock:
            fd, self._next_fd = self._next_fd, None
        assert fd is not None  # one of these for each
        if self._fd != self._standard_fd:
            os.close(self._fd)
        self._fd = fd


def as_is(values: Values) -> str:
    """For a text that is a line already."""
    return str(values[0])


def _line(render: Render, values: Values, stamp: tuple[int, int] | None) -> str:
    """QEMU-COMPAT: with a stamp, "thread@seconds.microseconds:text"."""
    try:
        text = render(values)
    except Exception as error:  # a wrong declaration must not end the writer
        text = f"vmmd: a log line cannot be made: {error!r} {values!r}"
    if stamp is not None:
        time_ns, thread = stamp
        text = f"{thread}@{time_ns // 1_000_000_000}.{time_ns // 1000 % 1_000_000:06d}:{text}"
    return printable(text) + "\n"


def _open(path: str) -> int:
    name = path
    if "%" in path:
        if path.count("%") != 1 or "%d" not in path:
            # QEMU-COMPAT: the phrase
            raise UsageError(f"Bad logfile template: {path}", "%d, once, is the process's id")
        name = path.replace("%d", str(os.getpid()))
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
    try:
        checked_path(name)
    except ValueError as cause:
        raise UsageError(f"Error opening logfile {path}", f"it takes {PATH_ACCEPTS}") from cause
    try:
        return os.open(name, flags | os.O_NONBLOCK, 0o666)  # a FIFO that nobody reads must not stop the loop
    except OSError as cause:
        raise BackendError.from_os(f"Error opening logfile {path}", cause) from cause


#: trace events and log items of this process
output = TraceOutput()
#: its log (``vmmd.log``), which stays on stderr
log_output = TraceOutput()
