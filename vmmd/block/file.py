# SPDX-License-Identifier: Apache-2.0
"""``file`` and ``host_device``: an image in a host file or on a block device.

Reading: behind the end of the file are zeroes; the size counts in whole sectors. Short transfers are continued. With
``cache.direct`` the file is O_DIRECT: a request whose memory does not suit the kernel is repeated through an aligned
copy, and on hosts with sectors above 512 bytes writes that cover parts of a sector read it first, one after another.
With ``cache=writethrough`` a write is durable (RWF_DSYNC) before it completes; with ``no-flush`` flushes do nothing.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from functools import partial
from typing import TYPE_CHECKING, Protocol

from vmmd.block import probe, syscalls
from vmmd.block.base import BlockNode, NodeConfig, skip, total
from vmmd.block.gate import CopyBudget, WriteGate
from vmmd.block.lock import NOTHING, ImageLock, LockState
from vmmd.core.fdsets import PREFIX, open_path
from vmmd.errors import BackendError, UsageError
from vmmd.log import get_logger
from vmmd.units import SECTOR_BYTES, KiB, MiB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmmd.block.pool import ThreadPool
    from vmmd.core.backend import IoDone
    from vmmd.core.fdsets import FdSets

log = get_logger("vmmd.block")

#: Largest request tried on the loop itself when the page cache (or tmpfs) may answer
INLINE_BYTES = 64 * KiB
#: After the page cache did not have it, so many requests go to a thread without a try
INLINE_PAUSE = 16
#: Memory of aligned copies at a time, of one image (a guest chooses how much it asks for, and where it lies)
COPY_BYTES = 16 * MiB
#: what off_t holds
FILE_BYTES_MAX = (1 << 63) - 1
#: <limits.h> IOV_MAX
IOV_MAX = 1024

_RETRY = (-errno.EINTR, -errno.EAGAIN)
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS)


class Engine(Protocol):
    """How requests get to the kernel. ``finish`` gets a byte count or a negative errno, on the loop."""

    name: str

    def readv(self, fd: int, buffers: Sequence[memoryview], offset: int, finish: Callable[[int], None]) -> None: ...

    def writev(
        self, fd: int, buffers: Sequence[memoryview], offset: int, flags: int, finish: Callable[[int], None]
    ) -> None: ...

    def fsync(self, fd: int, finish: Callable[[int], None]) -> None: ...


class FileNode(BlockNode):
    def __init__(self, config: NodeConfig, path: str, pool: ThreadPool, driver: str = "file") -> None:
        super().__init__(config)
        self.driver = driver
        self.path = path
        self.auto_read_only = False
        self.locking = "auto"
        self.engine: Engine = pool
        self.fdsets: FdSets | None = None
        self._pool = pool
        self._fd = -1
        self._bytes = 0  # of the file; the disk is rounded up to sectors
        self._lock: ImageLock | None = None
        self._is_local = True
        self._is_asking = False  # a thread finds out how much is allocated
        self._allocated_bytes = 0
        self._inline: int | None = None  # flags of a read on the loop, None: never
        self._inline_pause = 0
        self._write_inline = False
        self._write_flags = 0
        self._gate: WriteGate | None = None
        self._copies = CopyBudget(COPY_BYTES)
        self._discards_ok = self._discards_failed = self._discarded_bytes = 0
        self._flushing = False
        self._flush_next: list[IoDone] = []  # flushes that one call will serve when the current one has ended
        self._lost = 0  # errno of a flush that failed: the page cache may have dropped the data

    may_be_dirty = True

    @property
    def may_block(self) -> bool:
        """A passed descriptor is duplicated at once; the sets are the loop's."""
        return self._fd >= 0 or not self.path.startswith(PREFIX)

    # -- life ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        try:
            if not self.path.startswith(PREFIX):
                self._check_kind(os.stat(self.path).st_mode)  # opening a FIFO would wait for its other end
            self._fd = self._open_file()
            self._check_kind(os.fstat(self._fd).st_mode)
            self._bytes = probe.size_of(self._fd)
            self._probe()
        except OSError as error:
            self._abandon()
            if error.errno == errno.EINVAL and self.cache_direct:
                raise BackendError.from_os(
                    f"Could not open '{self.path}': the file system does not take cache.direct=on (O_DIRECT)", error
                ) from error
            raise BackendError.from_os(f"Could not open '{self.path}'", error) from error
        except BackendError:
            self._abandon()
            raise
        self._lock = ImageLock(self._fd, self.path, "off" if self.config.force_share else self.locking)

    def _open_file(self) -> int:
        flags = os.O_CLOEXEC | (os.O_DIRECT if self.cache_direct else 0)
        if not self.read_only:
            try:
                return self._open(flags | os.O_RDWR)
            except OSError as error:
                if not self.auto_read_only or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise
                self.read_only = True
        return self._open(flags | os.O_RDONLY)

    def _open(self, flags: int) -> int:
        fd = open_path(self.path, flags, 0, self.fdsets)
        if self.path.startswith(PREFIX):
            import fcntl

            # a duplicate: O_DIRECT is as whoever opened it chose; for an image it is the cache mode's
            now = fcntl.fcntl(fd, fcntl.F_GETFL)
            if (now ^ flags) & os.O_DIRECT:
                fcntl.fcntl(fd, fcntl.F_SETFL, now ^ os.O_DIRECT)
        return fd

    def _check_kind(self, mode: int) -> None:
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        # QEMU-COMPAT: QEMU's sentences
        if self.driver == "file" and not stat.S_ISREG(mode):
            raise BackendError(f"'file' driver requires '{self.path}' to be a regular file")
        if self.driver == "host_device" and not stat.S_ISBLK(mode):
            raise BackendError(
                f"'host_device' driver requires '{self.path}' to be either a character or block device",
                "this version takes block devices",
            )

    def _probe(self) -> None:
        kind = probe.filesystem_type(self._fd)
        self._is_local = probe.is_local(kind)
        self._allocated_bytes = self._allocated()
        if self.writes_through:
            self._write_flags = os.RWF_DSYNC
        if self.cache_direct:
            align = probe.direct_alignment(self._fd)
            if align > SECTOR_BYTES:
                self._gate = WriteGate(align)
        elif self.engine.name == "threads":
            if probe.is_memory_backed(kind):
                self._inline = 0
                self._write_inline = not self.writes_through
            elif probe.takes_nowait(self._fd):
                self._inline = os.RWF_NOWAIT

    def _abandon(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        """The engines are drained already; make it durable and close."""
        if self._fd < 0:
            return
        try:
            if not self.read_only and not self.cache_no_flush:
                os.fdatasync(self._fd)
        except OSError as error:
            log.warning("image %s: the last flush failed: %s", self.path, error.strerror)
        self.set_lock(NOTHING)
        self._abandon()

    def set_lock(self, wanted: LockState) -> None:
        if self._lock is not None:
            self._lock.change(wanted)

    # -- description ---------------------------------------------------------------------------------------------

    @property
    def filename(self) -> str:
        return self.path

    @property
    def options_shown(self) -> dict[str, object]:
        return {**super().options_shown, "filename": self.path}

    @property
    def actual_size(self) -> int | None:
        """Where the host would have to ask a server: what it was when it was last asked for, as nobody waits here."""
        if self._fd < 0:
            return None
        if self._is_local:
            return self._allocated()
        if not self._is_asking:
            self._is_asking = True
            self._pool.submit(self._asked, self._ask)
        return self._allocated_bytes

    def _allocated(self) -> int:
        return os.fstat(self._fd).st_blocks * 512

    def _ask(self) -> None:
        """Blocks."""
        self._allocated_bytes = self._allocated()

    def _asked(self, _error: int) -> None:
        self._is_asking = False

    @property
    def size_bytes(self) -> int:
        return -(-self._bytes // SECTOR_BYTES) * SECTOR_BYTES

    def refresh_size(self) -> None:
        """Look at the size again (the image was grown on the host)."""
        before = self._bytes
        self._bytes = probe.size_of(self._fd)
        if self._bytes != before:
            self.tell_resized()

    def resizable(self, size_bytes: int) -> tuple[FileNode, int]:
        if self.read_only:
            raise UsageError(f"Block node '{self.node_name}' is read-only")
        if size_bytes > FILE_BYTES_MAX:
            raise UsageError(f"Failed to resize the file '{self.path}': {os.strerror(errno.EFBIG)}")
        if self.driver == "host_device" and size_bytes > self._bytes:
            # QEMU-COMPAT: QEMU's sentence
            raise UsageError("Cannot grow device files")
        return self, size_bytes

    async def truncate(self, size_bytes: int) -> None:
        """Change the length of the file, on a thread; what a block device has stays. Raises BackendError."""
        if self.driver == "host_device":
            return
        results: list[int] = []
        finished = self._pool.loop.create_future()

        def done(result: int) -> None:
            results.append(result)
            finished.set_result(None)

        self._pool.submit(done, os.ftruncate, self._fd, size_bytes)
        await finished
        if results[0] < 0:
            raise BackendError(f"Failed to resize the file '{self.path}': {os.strerror(-results[0])}")

    def head(self, count: int, offset: int = 0) -> bytes:
        size = max(count, 4096)
        with mmap.mmap(-1, size) as area, memoryview(area) as view:
            got = os.preadv(self._fd, [view], offset)
            return bytes(view[: min(got, count)])

    # -- reading -------------------------------------------------------------------------------------------------

    def readv(self, offset: int, buffers: Sequence[memoryview], done: IoDone) -> None:
        count = len(buffers[0]) if len(buffers) == 1 else total(buffers)
        if self._inline is not None and count <= INLINE_BYTES and len(buffers) <= IOV_MAX:
            if self._inline_pause:
                self._inline_pause -= 1
            else:
                try:
                    got = os.preadv(self._fd, buffers, offset, self._inline)
                except OSError:
                    self._inline_pause = INLINE_PAUSE
                else:
                    if got == count:
                        done(0)
                    else:
                        self._read_done(offset, buffers, count, done, got)
                    return
        if self._gate is not None and (offset | count) & self._gate.mask:
            self._read_bounced(offset, buffers, count, done)
            return
        part = buffers if len(buffers) <= IOV_MAX else buffers[:IOV_MAX]
        self.engine.readv(self._fd, part, offset, partial(self._read_done, offset, buffers, count, done))

    def _read_done(self, offset: int, buffers: Sequence[memoryview], count: int, done: IoDone, result: int) -> None:
        if result == count:
            done(0)
        elif result >= 0:
            self._read_rest(offset + result, skip(buffers, result), count - result, done, result == 0)
        elif result in _RETRY:
            self.readv(offset, buffers, done)
        elif result == -errno.EINVAL and self.cache_direct:
            self._read_bounced(offset, buffers, count, done)
        else:
            done(-result)

    def _read_rest(self, offset: int, buffers: Sequence[memoryview], count: int, done: IoDone, nothing: bool) -> None:
        """After a short read: go on, or give zeroes behind the end of the file."""
        if nothing or offset >= probe.size_of(self._fd):
            for buffer in buffers:
                buffer[:] = bytes(len(buffer))
            done(0)
        elif self.cache_direct and offset % SECTOR_BYTES:
            self._read_bounced(offset, buffers, count, done)
        else:
            self.readv(offset, buffers, done)

    def _read_bounced(self, offset: int, buffers: Sequence[memoryview], count: int, done: IoDone) -> None:
        """Read into aligned memory, whole pages, then copy."""

        def begin(ended: IoDone) -> None:
            start, area = _aligned(offset, count)

            def copy(error: int) -> None:
                if not error:
                    scatter(memoryview(area)[offset - start : offset - start + count], buffers)
                ended(error)

            self._fill(start, area, 0, copy)

        self._copies.run(count, begin, done)

    def _fill(self, start: int, area: mmap.mmap, have: int, done: IoDone) -> None:
        """Read all of ``area`` (zero-filled memory); what lies behind the end of the file stays zero."""

        def more(result: int) -> None:
            if result in _RETRY:
                self._fill(start, area, have, done)
            elif result < 0:
                done(-result)
            elif not result or have + result >= len(area) or start + have + result >= probe.size_of(self._fd):
                done(0)
            else:
                self._fill(start, area, have + result, done)

        self.engine.readv(self._fd, [memoryview(area)[have:]], start + have, more)

    # -- writing -------------------------------------------------------------------------------------------------

    def writev(self, offset: int, buffers: Sequence[memoryview], done: IoDone) -> None:
        if self.read_only:
            done(errno.EPERM)
        elif self._gate is not None:
            self._gate.run(partial(self._write_gated, offset, buffers), done)
        else:
            self._write(offset, buffers, done)

    def _write(self, offset: int, buffers: Sequence[memoryview], done: IoDone) -> None:
        count = len(buffers[0]) if len(buffers) == 1 else total(buffers)
        finish = partial(self._write_done, offset, buffers, count, done)
        part = buffers if len(buffers) <= IOV_MAX else buffers[:IOV_MAX]
        if self._write_inline and count <= INLINE_BYTES:
            try:
                result = os.pwritev(self._fd, part, offset)
            except OSError as error:
                result = -(error.errno or errno.EIO)
            finish(result)
        else:
            self.engine.writev(self._fd, part, offset, self._write_flags, finish)

    def _write_done(self, offset: int, buffers: Sequence[memoryview], count: int, done: IoDone, result: int) -> None:
        if result == count:
            done(0)
        elif result > 0:
            self._write(offset + result, skip(buffers, result), done)
        elif result in _RETRY:
            self._write(offset, buffers, done)
        elif result == -errno.EINVAL and self.cache_direct and not _is_bounce(buffers):
            self._copies.run(count, partial(self._write_bounced, offset, buffers, count), done)
        else:
            done(-result if result else errno.EIO)

    def _write_bounced(self, offset: int, buffers: Sequence[memoryview], count: int, done: IoDone) -> None:
        """Write from aligned memory."""
        area = mmap.mmap(-1, max(count, 1))
        gather(buffers, area, 0)
        self._write(offset, [memoryview(area)], done)

    def _write_gated(self, offset: int, buffers: Sequence[memoryview], done: IoDone) -> None:
        """One write at a time; parts of sectors are read first."""
        assert self._gate is not None  # only called through it
        count = total(buffers)
        mask = self._gate.mask
        if not (offset | count) & mask:
            self._write(offset, buffers, done)
            return
        start = offset & ~mask
        area = mmap.mmap(-1, ((offset + count + mask) & ~mask) - start)

        def overlay(error: int) -> None:
            if error:
                done(error)
                return
            gather(buffers, area, offset - start)
            self._write(start, [memoryview(area)], done)

        self._fill(start, area, 0, overlay)

    # -- flush, discard, zeroes ----------------------------------------------------------------------------------

    def flush(self, done: IoDone) -> None:
        if self.cache_no_flush or self.read_only:
            done(0)
        elif self._lost:
            done(errno.EIO)
        elif self._flushing:
            self._flush_next.append(done)  # the one under way may have begun before this one's writes
        else:
            self._start_flush([done])

    def _start_flush(self, dones: list[IoDone]) -> None:
        """One call of the host for all of ``dones``."""
        self._flushing = True
        self.engine.fsync(self._fd, partial(self._flush_done, dones))

    def _flush_done(self, dones: list[IoDone], result: int) -> None:
        if result in _RETRY:
            self._start_flush(dones)
            return
        if result < 0 and not self.cache_direct:
            # the kernel drops pages it failed to write: a later success would be a lie
            self._lost = -result
        for done in dones:
            done(-result if result < 0 else 0)  # who asks for a flush now waits with the others
        following, self._flush_next = self._flush_next, []
        self._flushing = False
        if following and self._lost:
            for done in following:
                done(errno.EIO)
        elif following:
            self._start_flush(following)

    def discard(self, offset: int, length: int, done: IoDone) -> None:
        if self.read_only:
            done(errno.EPERM)
        elif not self.supports_discard or not length:
            done(0)
        else:
            self._exclusive(partial(self._punch, offset, length), partial(self._discarded, length, done))

    def _discarded(self, length: int, done: IoDone, error: int) -> None:
        """Count it. A host that cannot discard is as good as one that did: discard is a hint."""
        if error:
            self._discards_failed += 1
        else:
            self._discards_ok += 1
            self._discarded_bytes += length
        # EINVAL: a block device takes whole sectors of its own only
        done(0 if error in (*_UNSUPPORTED, errno.EINVAL) else error)

    @property
    def discards(self) -> tuple[int, int, int]:
        return self._discards_ok, self._discards_failed, self._discarded_bytes

    def write_zeroes(self, offset: int, length: int, may_unmap: bool, done: IoDone) -> None:
        if self.read_only:
            done(errno.EPERM)
        elif not length:
            done(0)
        else:
            self._exclusive(partial(self._zero, offset, length, may_unmap and self.supports_discard), done)

    def _exclusive(self, function: Callable[[], None], done: IoDone) -> None:
        """Run a blocking function on a thread; alone, where writes are serialized."""

        def start(done: IoDone) -> None:
            self._pool.submit(lambda result: done(-result), function)

        if self._gate is not None:
            self._gate.run(start, done)
        else:
            start(done)

    def _punch(self, offset: int, length: int) -> None:
        """Blocks."""
        syscalls.fallocate(self._fd, syscalls.FALLOC_PUNCH_HOLE | syscalls.FALLOC_KEEP_SIZE, offset, length)

    def _zero(self, offset: int, length: int, unmap: bool) -> None:
        """Blocks: a hole, a zeroed range, or zeroes, whichever the host can do first."""
        modes = [syscalls.FALLOC_ZERO_RANGE | syscalls.FALLOC_KEEP_SIZE]
        if unmap:
            modes.insert(0, syscalls.FALLOC_PUNCH_HOLE | syscalls.FALLOC_KEEP_SIZE)
        for mode in modes:
            try:
                syscalls.fallocate(self._fd, mode, offset, length)
                break
            except OSError as error:
                if error.errno not in (*_UNSUPPORTED, errno.EINVAL):
                    raise
        else:
            self._write_zero_bytes(offset, length)
        if self.writes_through:
            os.fdatasync(self._fd)

    def _write_zero_bytes(self, offset: int, length: int) -> None:
        mask = 0 if self._gate is None else self._gate.mask
        with mmap.mmap(-1, MiB) as area, memoryview(area) as zeroes:
            while length:
                if offset & mask or length <= mask:
                    written = min(length, mask + 1 - (offset & mask))
                    self._zero_inside_sector(offset, written, mask)
                else:
                    with zeroes[: min(length & ~mask, MiB)] as part:
                        written = os.pwritev(self._fd, [part], offset)
                offset += written
                length -= written

    def _zero_inside_sector(self, offset: int, length: int, mask: int) -> None:
        """Blocks. Runs alone (gate)."""
        start = offset & ~mask
        with mmap.mmap(-1, mask + 1) as area, memoryview(area) as sector:
            os.preadv(self._fd, [sector], start)
            area[offset - start : offset - start + length] = bytes(length)
            os.pwritev(self._fd, [sector], start)


def _aligned(offset: int, count: int) -> tuple[int, mmap.mmap]:
    """Start and memory of the whole pages around a range."""
    start = offset & ~4095
    return start, mmap.mmap(-1, ((offset + count + 4095) & ~4095) - start)


def _is_bounce(buffers: Sequence[memoryview]) -> bool:
    return len(buffers) == 1 and type(buffers[0].obj) is mmap.mmap and buffers[0].nbytes == len(buffers[0].obj)


def scatter(data: bytes | memoryview, buffers: Sequence[memoryview]) -> None:
    """Copy ``data`` into the buffers in order."""
    at = 0
    for buffer in buffers:
        buffer[:] = data[at : at + len(buffer)]
        at += len(buffer)


def gather(buffers: Sequence[memoryview], area: mmap.mmap, at: int) -> None:
    """Copy the buffers one behind the other into ``area``."""
    for buffer in buffers:
        area[at : at + len(buffer)] = buffer
        at += len(buffer)
