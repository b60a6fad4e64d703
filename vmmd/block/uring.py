# SPDX-License-Identifier: Apache-2.0
"""aio=io_uring: requests through the PyPI package ``liburing``, imported when a disk asks for it.

What is queued within one callback of the loop goes to the kernel in one call, at the end of it (or at
``unplug``, around a batch). Completions arrive by an eventfd. Loop thread.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from vmmd.block.pool import report
from vmmd.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmmd.core.notify import LoopPort

ENTRIES = 256
#: <linux/io_uring.h> IORING_FSYNC_DATASYNC
FSYNC_DATASYNC = 1


class UringEngine:
    name = "io_uring"

    def __init__(self, loop: LoopPort) -> None:
        """Raises BackendError when liburing is missing or the kernel refuses."""
        try:
            import liburing
        except ImportError as error:
            hint = "install it (pip install liburing), or use aio=threads"
            raise BackendError("aio=io_uring needs the Python package 'liburing'", hint) from error
        self._loop = loop
        self._uring: Any = liburing
        self._ring: Any = liburing.Ring()
        try:
            liburing.io_uring_queue_init(ENTRIES, self._ring, 0)
        except OSError as error:
            raise BackendError.from_os("aio=io_uring: the kernel does not allow it (use aio=threads)", error) from error
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        liburing.io_uring_register_eventfd(self._ring, self._event)
        loop.add_reader(self._event, self._reap)
        self._get = liburing.io_uring_get_sqe
        self._iovec = liburing.Iovec
        self._prep_readv = liburing.io_uring_prep_readv
        self._prep_writev = liburing.io_uring_prep_writev
        self._set_data = liburing.io_uring_sqe_set_data64
        self._cqe: Any = liburing.Cqe()
        self._pending: dict[int, tuple[Callable[[int], None], Any, Any]] = {}  # keeps buffers alive
        self._next = 0
        self._queued = 0
        self._plugged = 0
        self._posted = False

    @property
    def in_flight(self) -> int:
        return len(self._pending)

    def plug(self) -> None:
        """Collect requests until ``unplug``."""
        self._plugged += 1

    def unplug(self) -> None:
        self._plugged -= 1
        if not self._plugged and self._queued:
            self._submit()

    def readv(self, fd: int, buffers: Sequence[memoryview], offset: int, finish: Callable[[int], None]) -> None:
        sqe = self._sqe()
        # SAFETY: the views (and so the memory) and the iovec live in _pending until the completion has been seen
        iovec = self._iovec(buffers if type(buffers) is list else list(buffers))
        self._prep_readv(sqe, fd, iovec, offset)
        self._add(sqe, finish, iovec, buffers)

    def writev(
        self, fd: int, buffers: Sequence[memoryview], offset: int, flags: int, finish: Callable[[int], None]
    ) -> None:
        sqe = self._sqe()
        # SAFETY: as in readv
        iovec = self._iovec(buffers if type(buffers) is list else list(buffers))
        self._prep_writev(sqe, fd, iovec, offset, flags)
        self._add(sqe, finish, iovec, buffers)

    def fsync(self, fd: int, finish: Callable[[int], None]) -> None:
        sqe = self._sqe()
        self._uring.io_uring_prep_fsync(sqe, fd, FSYNC_DATASYNC)
        self._add(sqe, finish, None, None)

    def _sqe(self) -> Any:
        while self._queued >= ENTRIES:
            self._submit()  # on a kernel that is short of something this reaps, so that there is room
        return self._get(self._ring)

    def _add(self, sqe: Any, finish: Callable[[int], None], iovec: Any, buffers: Any) -> None:
        number = self._next
        self._next = number + 1 & 0xFFFF_FFFF_FFFF
        self._set_data(sqe, number)
        self._pending[number] = (finish, iovec, buffers)
        self._queued += 1
        if not self._posted and not self._plugged:
            self._posted = True
            self._loop.post(self._flush_queue)

    def _flush_queue(self) -> None:
        self._posted = False
        if self._queued and self._event >= 0:
            self._submit()

    def _submit(self) -> None:
        try:
            self._queued -= self._uring.io_uring_submit(self._ring)
        except OSError:
            # EAGAIN, EBUSY, EINTR: the kernel is short of something; what is queued stays queued
            self._reap()
            if not self._posted:
                self._posted = True
                self._loop.call_later(1_000_000, self._flush_queue)

    def _reap(self) -> None:
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            pass
        uring, cqe = self._uring, self._cqe
        ended: list[tuple[int, int]] = []
        iterator = uring.io_uring_cqe_iter_init(self._ring)
        following = uring.io_uring_cqe_iter_next
        while following(iterator, cqe):
            entry = cqe[0]
            try:
                ended.append((entry.user_data, entry.res))
            except OSError as error:  # the binding's way to give a negative result
                ended.append((entry.user_data, -(error.errno or errno.EIO)))
        uring.io_uring_cq_advance(self._ring, len(ended))
        pop = self._pending.pop
        for number, result in ended:
            finish = pop(number)[0]
            try:
                finish(result)
            except Exception:
                report("the end of a disk request failed")

    def drain(self) -> None:
        """Wait until nothing is in flight. Blocks."""
        if not self._pending:
            return
        import select

        poller = select.poll()  # descriptors above 1023 are too many for select()
        poller.register(self._event, select.POLLIN)
        while self._pending:
            if self._queued:
                self._submit()
            poller.poll(1000)
            self._reap()

    def close(self) -> None:
        """Drain and give the ring back. Idempotent."""
        if self._event < 0:
            return
        self.drain()
        self._loop.remove_reader(self._event)
        self._uring.io_uring_queue_exit(self._ring)
        os.close(self._event)
        self._event = -1
