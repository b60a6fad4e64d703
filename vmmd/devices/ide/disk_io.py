# SPDX-License-Identifier: Apache-2.0
"""Requests of one IDE drive to its backend: from a register access to the loop, and back with the DeviceLock.

    io.submit(Request(Kind.READ, offset, view, then))      lock held; ``then(error)`` comes with the lock held

One request at a time: a drive has one command. What is cancelled (reset, another command) is never heard of again, but
a new request waits until it has ended, so that nothing overtakes it. While the VM is stopped nothing is begun.
Errors follow rerror/werror: «stop» parks the request and tries it again when the VM goes on.
"""

from __future__ import annotations

import enum
import errno
import os
from functools import partial
from time import monotonic_ns
from typing import TYPE_CHECKING, NamedTuple

from vmmd.core.events import BlockIoErrorEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.backend import DriveHandle, IoDone
    from vmmd.core.device import DeviceContext


class Kind(enum.Enum):
    READ = "read"
    WRITE = "write"
    FLUSH = "flush"
    DISCARD = "discard"
    NOTHING = "nothing"  # but a turn of the loop


class Request(NamedTuple):
    """One request. ``view`` is the data of a read or write; a discard has ``length`` only."""

    kind: Kind
    offset: int  # bytes
    view: memoryview
    then: Callable[[int], None]  # gets 0, or the errno that the guest is to see
    length: int = 0
    #: the error goes to ``then`` whatever the policy says: the caller tries smaller pieces
    is_trial: bool = False


_NO_DATA = memoryview(b"")


def flush(then: Callable[[int], None]) -> Request:
    """Make everything durable."""
    return Request(Kind.FLUSH, 0, _NO_DATA, then)


def discard(offset: int, length: int, then: Callable[[int], None]) -> Request:
    """These bytes are no longer needed."""
    return Request(Kind.DISCARD, offset, _NO_DATA, then, length)


def nothing(then: Callable[[int], None]) -> Request:
    """A turn of the loop, as any request costs: what has no data on the disk neither recurs nor keeps the lock."""
    return Request(Kind.NOTHING, 0, _NO_DATA, then)


class DiskIo:
    """The way of one drive to its backend and back."""

    def __init__(self, ctx: DeviceContext, drive: DriveHandle, rerror: str, werror: str) -> None:
        """``rerror``, ``werror``: resolved policies."""
        self._ctx = ctx
        self.drive = drive
        self.rerror = rerror
        self.werror = werror
        self.flush_after_write = False
        self._waiting: Request | None = None  # to be begun
        self._current: Request | None = None  # begun, and not cancelled
        self._in_flight = self._posted = False
        self._paused = False
        self._quiesced: Callable[[], None] | None = None

    # -- the drive's side; DeviceLock held -------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Begin a request; the drive has no other."""
        self._waiting = request
        self._schedule()

    def _schedule(self) -> None:
        if not self._posted:
            self._posted = True
            self._ctx.loop.post(self._begin)

    def cancel(self) -> bool:
        """Nothing that was submitted is heard of again. True when a request is in flight: its view stays in use."""
        self._waiting = self._current = None
        return self._in_flight

    # -- the loop --------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        with self._ctx.lock:
            self._posted = False
            request = self._waiting
            if request is None or self._in_flight or self._paused:
                return
            self._waiting, self._current, self._in_flight = None, request, True
        done = partial(self._done, request, monotonic_ns())
        backend = self.drive.backend
        if request.offset + max(len(request.view), request.length) > backend.size_bytes:
            done(errno.EIO)  # the medium has become shorter, or is another
        elif request.kind is Kind.READ:
            backend.readv(request.offset, [request.view], done)
        elif request.kind is Kind.WRITE:
            last = partial(self._written, done) if self.flush_after_write else done
            backend.writev(request.offset, [request.view], last)
        elif request.kind is Kind.FLUSH:
            backend.flush(done)
        elif request.kind is Kind.DISCARD and backend.supports_discard:
            backend.discard(request.offset, request.length, done)
        else:
            done(0)

    def _written(self, done: IoDone, error: int) -> None:
        """Without a write cache data are durable before the guest hears of them."""
        if error:
            done(error)
        else:
            self.drive.backend.flush(done)

    def _done(self, request: Request, start_ns: int, error: int) -> None:
        with self._ctx.lock:
            self._in_flight = False
            if not error:
                self._account(request, monotonic_ns() - start_ns)
            if request is self._current:
                self._current = None
                self._tell(request, error)
            if self._waiting is not None:  # it may have come while a cancelled one was in flight
                self._schedule()
        self._check_idle()

    def _tell(self, request: Request, error: int) -> None:
        if not error or request.is_trial:
            request.then(error)
            return
        self._count_failed(request.kind)
        policy = self._policy(request.kind, error)
        self._emit(request.kind, policy, error)
        if policy == "stop":
            self._waiting, self._paused = request, True
            self.drive.io_status = "nospace" if error == errno.ENOSPC else "failed"
            self._ctx.requests.request_io_error_stop()
        else:
            request.then(0 if policy == "ignore" else error)

    def _policy(self, kind: Kind, error: int) -> str:
        policy = self.rerror if kind is Kind.READ else self.werror
        if policy == "enospc":
            return "stop" if error == errno.ENOSPC else "report"
        return policy

    def _emit(self, kind: Kind, policy: str, error: int) -> None:
        drive = self.drive
        self._ctx.events.emit(
            BlockIoErrorEvent(
                device=drive.name,
                node_name=drive.node_name,
                operation="read" if kind is Kind.READ else "write",
                action=policy,
                nospace=None if drive.io_status is None else error == errno.ENOSPC,
                reason=os.strerror(error),
            )
        )

    # -- the VM stops and goes on; on the loop, without the lock ---------------------------------------------

    def quiesce(self, done: Callable[[], None]) -> None:
        """Begin nothing more; ``done()`` when nothing is in flight."""
        self._paused = True
        self._quiesced = done
        self._check_idle()

    def _check_idle(self) -> None:
        if self._quiesced is not None and not self._in_flight:
            done, self._quiesced = self._quiesced, None
            done()

    def resume(self) -> None:
        """Go on with what waits."""
        self._paused = False
        if self.drive.io_status is not None:
            self.drive.io_status = "ok"
        self._begin()

    def lost_medium(self) -> None:
        """The drive was taken away (drive_del): from now on every request fails, and the guest is told so."""
        self.rerror = self.werror = "report"

    def reset_by_machine(self) -> None:
        """The machine was reset: nothing waits, and requests may begin."""
        self.cancel()
        self._paused = False

    # -- statistics ------------------------------------------------------------------------------------------

    def _account(self, request: Request, elapsed_ns: int) -> None:
        stats, length = self.drive.stats, len(request.view)
        if request.kind is Kind.READ:
            stats.rd_ops += 1
            stats.rd_bytes += length
            stats.rd_ns += elapsed_ns
        elif request.kind is Kind.WRITE:
            stats.wr_ops += 1
            stats.wr_bytes += length
            stats.wr_ns += elapsed_ns
            stats.wr_highest_offset = max(stats.wr_highest_offset, request.offset + length)
        elif request.kind is Kind.FLUSH:
            stats.flush_ops += 1
            stats.flush_ns += elapsed_ns
        elif request.kind is Kind.DISCARD:
            stats.unmap_ops += 1
            stats.unmap_bytes += request.length
            stats.unmap_ns += elapsed_ns

    def _count_failed(self, kind: Kind) -> None:
        stats = self.drive.stats
        if kind is Kind.READ:
            stats.failed_rd += 1
        elif kind is Kind.WRITE:
            stats.failed_wr += 1
        elif kind is Kind.FLUSH:
            stats.failed_flush += 1
        else:
            stats.failed_unmap += 1

    def count_invalid(self, kind: Kind) -> None:
        """A request that the guest should not have made."""
        stats = self.drive.stats
        if kind is Kind.READ:
            stats.invalid_rd += 1
        elif kind is Kind.WRITE:
            stats.invalid_wr += 1
        else:
            stats.invalid_unmap += 1
