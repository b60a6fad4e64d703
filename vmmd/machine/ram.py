# SPDX-License-Identifier: Apache-2.0
"""Host memory behind guest RAM: anonymous, memfd or file, with the options of ``memory-backend-*``.

Memory is mapped once and lives as long as the process (or until unplug, later). Nothing is copied: devices get
memoryviews of the mapping and KVM gets its address.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from typing import NamedTuple

from vmmd.core.created import CreatedFile
from vmmd.core.memory import RamRegion, make_region
from vmmd.errors import BackendError, UsageError
from vmmd.log import get_logger
from vmmd.units import PAGE_BYTES, MiB, format_size

log = get_logger("vmmd.machine")

_MAP_NORESERVE = 0x4000
_MADV_HUGEPAGE = 14
_MADV_MERGEABLE = 12
_MADV_UNMERGEABLE = 13
_MADV_DONTDUMP = 16
_MADV_DODUMP = 17
_MADV_POPULATE_WRITE = 23  # Linux 5.14
_HUGETLBFS_MAGIC = 0x9584_58F6  # statfs(2)


_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class RamSettings(NamedTuple):
    """What a ``memory-backend-*`` object or ``-m`` asks for."""

    kind: str = "ram"  # "ram", "memfd", "file"
    size_bytes: int = 0
    share: bool = False
    prealloc: bool = False
    merge: bool = True
    dump: bool = True
    path: str | None = None  # file: the file, or a directory (hugetlbfs) for an unnamed one
    discard_data: bool = False
    hugetlb: bool = False
    hugetlb_size_bytes: int = 0
    seal: bool = True
    reserve: bool = True


class RamBlock:
    """A mapping of host memory. ``view`` covers all of it; ``hva`` is where it is mapped."""

    def __init__(self, name: str, settings: RamSettings) -> None:
        self.name = name
        self.settings = settings
        self.size_bytes = settings.size_bytes
        self.fd: int | None = None
        self.page_bytes = PAGE_BYTES
        self._created: CreatedFile | None = None
        try:
            self._map = self._allocate()
        except BaseException:
            self._take_back()
            raise
        self.view = memoryview(self._map)
        # SAFETY: the mapping is page aligned, as long as the view, and kept alive by self; KVM slots and regions made
        # from it are removed before the block is closed (mmap.close raises BufferError while a view is out).
        self.hva = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        if self.size_bytes >= 2 * MiB and settings.kind == "ram":
            self._madvise(_MADV_HUGEPAGE)
        self.advise(merge=settings.merge or None, dump=None if settings.dump else False)
        if settings.prealloc:
            try:
                self.preallocate()
            except BaseException:
                self._take_back()
                self.unmap()
                raise

    def region(self, gpa: int, offset_bytes: int, size_bytes: int) -> RamRegion:
        """A part of the block at a guest-physical address."""
        view = self.view[offset_bytes : offset_bytes + size_bytes]
        shared_fd = self.fd if self.settings.share else None
        return make_region(gpa, view, self.hva + offset_bytes, self.name, shared_fd, offset_bytes, self)

    def discard(self, hva: int, length: int) -> None:
        """Give pages back to the host (core.memory.RamBacking): other processes that map the same memory see it, too.
        LIMIT: a file system on a disk may take its time; the loop waits."""
        if hva < self.hva or hva + length > self.hva + self.size_bytes or (hva | length) % self.page_bytes:
            raise ValueError(f"{length:#x} bytes at {hva:#x} are no pages of memory '{self.name}'")
        # SAFETY: a range of the mapping, checked above; views of it stay valid and read zeroes, or what the file has.
        # Of a shared mapping MADV_DONTNEED would free nothing, of a private one MADV_REMOVE would change the file
        _call_madvise(hva, length, mmap.MADV_REMOVE if self.settings.share else mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Discard the contents of a file if asked for, and close what was opened. The mapping stays: ``unmap``."""
        if self.fd is None:
            return
        if self.settings.discard_data:
            try:
                self._map.madvise(mmap.MADV_REMOVE)
            except OSError as error:  # a private mapping, or a file system that cannot: nothing is written back then
                log.info("memory '%s': its content stays: %s", self.name, error)
        self._close_fd()

    def _take_back(self) -> None:
        """It comes to nothing: so does the file that was made for it."""
        if self._created is not None:
            self._created.remove()
        self._close_fd()

    def _close_fd(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def unmap(self) -> None:
        """Give the memory back to the host: nobody may have a part of it any more."""
        self.view.release()
        self._map.close()

    def _allocate(self) -> mmap.mmap:
        settings = self.settings
        if settings.size_bytes <= 0 or settings.size_bytes % PAGE_BYTES:
            raise UsageError(f"memory '{self.name}' has size {settings.size_bytes}", "it must be whole 4096-byte pages")
        try:
            if settings.kind == "ram":
                return self._map_anonymous()
            return self._map_fd(self._open_memfd() if settings.kind == "memfd" else self._open_file())
        except (OSError, OverflowError) as cause:
            reason = os.strerror(cause.errno) if isinstance(cause, OSError) and cause.errno else str(cause)
            raise BackendError(f"{self._failed_step()}: {reason}", self._what_it_wants()) from cause

    def _failed_step(self) -> str:
        """QEMU-COMPAT: the sentences."""
        if self.settings.kind != "file":
            return f"cannot set up guest memory '{self.name}'"
        if self.fd is None:
            return f"can't open backing store {self.settings.path} for guest RAM"
        return "unable to map backing store for guest RAM"

    def _what_it_wants(self) -> str:
        settings = self.settings
        size = format_size(settings.size_bytes)
        if settings.kind == "file":
            return f"mem-path={settings.path} is to hold the {size} of memory '{self.name}'"
        pages = f" of huge pages of {format_size(settings.hugetlb_size_bytes)}" if settings.hugetlb_size_bytes else ""
        return f"it wants {size}{pages}"

    def _map_anonymous(self) -> mmap.mmap:
        return mmap.mmap(-1, self.size_bytes, flags=self._map_flags() | mmap.MAP_ANONYMOUS)

    def _map_flags(self) -> int:
        share = mmap.MAP_SHARED if self.settings.share else mmap.MAP_PRIVATE
        return share | (0 if self.settings.reserve else _MAP_NORESERVE)

    def _map_fd(self, fd: int) -> mmap.mmap:
        self.page_bytes = _page_bytes(fd)
        return mmap.mmap(fd, self.size_bytes, flags=self._map_flags())

    def _open_memfd(self) -> int:
        settings = self.settings
        flags = os.MFD_CLOEXEC | (os.MFD_ALLOW_SEALING if settings.seal else 0)
        if settings.hugetlb:
            flags |= os.MFD_HUGETLB
            if settings.hugetlb_size_bytes:
                flags |= (settings.hugetlb_size_bytes.bit_length() - 1) << 26
        fd = self.fd = os.memfd_create(self.name, flags)
        os.ftruncate(fd, self.size_bytes)
        if settings.seal:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        return fd

    def _open_file(self) -> int:
        settings = self.settings
        path = settings.path or ""
        if os.path.isdir(path):
            fd = self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_TMPFILE, 0o600)
            os.ftruncate(fd, self.size_bytes)
            return fd
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_CREAT
        try:
            fd = self.fd = os.open(path, flags | os.O_EXCL, 0o600)
            self._created = CreatedFile.opened(path, fd)
        except FileExistsError:
            fd = self.fd = os.open(path, flags, 0o600)
        if os.fstat(fd).st_size < self.size_bytes:
            os.ftruncate(fd, self.size_bytes)
            if os.fstat(fd).st_size < self.size_bytes:  # files of /proc do not grow, and do not say so
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        return fd

    def advise(self, *, merge: bool | None = None, dump: bool | None = None) -> None:
        """Let the host merge equal pages, or not; have them in core dumps, or not. None: leave it."""
        if merge is not None:
            self._madvise(_MADV_MERGEABLE if merge else _MADV_UNMERGEABLE)
        if dump is not None:
            self._madvise(_MADV_DODUMP if dump else _MADV_DONTDUMP)

    def _madvise(self, advice: int) -> None:
        try:
            self._map.madvise(advice)
        except OSError:  # a kernel without THP or KSM: advice only
            pass

    def preallocate(self) -> None:
        """Touch every page now, so that memory that is not there is an error here. Raises BackendError."""
        try:
            _call_madvise(self.hva, self.size_bytes, _MADV_POPULATE_WRITE)
        except OSError as cause:
            # QEMU-COMPAT: "os_mem_prealloc"-style failure is fatal at start
            raise BackendError.from_os(
                f"cannot preallocate {format_size(self.size_bytes)} for '{self.name}'", cause
            ) from None


def _page_bytes(fd: int) -> int:
    """The size of the pages that a mapping of the file has. Raises OSError."""
    # SAFETY: struct statfs begins with f_type and f_bsize, and is shorter than 32 longs
    fields = (ctypes.c_long * 32)()
    if _libc.fstatfs(fd, ctypes.byref(fields)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fields[1] if fields[0] == _HUGETLBFS_MAGIC else PAGE_BYTES


def _call_madvise(hva: int, length: int, advice: int) -> None:
    """madvise(2) of a range of a mapping that the caller keeps. Unlike mmap.madvise it lets other threads run
    meanwhile. Raises OSError."""
    if _libc.madvise(hva, length, advice):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def lock_memory() -> None:
    """``-overcommit mem-lock=on`` / ``-realtime mlock=on``: all pages, present and to come. Raises BackendError."""
    mcl_current, mcl_future = 1, 2
    if _libc.mlockall(mcl_current | mcl_future):
        reason = os.strerror(ctypes.get_errno())
        raise BackendError(f"cannot lock memory: {reason}", "raise RLIMIT_MEMLOCK or use mem-lock=off")
