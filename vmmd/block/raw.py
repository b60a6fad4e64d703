# SPDX-License-Identifier: Apache-2.0
"""``raw``: the bytes of the node below, or a window of them (``offset``, ``size``).

A raw node whose format was guessed (``-drive`` without ``format=``) does not let the guest write a first sector that
would make the image look like another format at the next start (CVE-2026-27211's class): such a write fails with EPERM.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vmmd.block.base import BlockNode, NodeConfig, skip
from vmmd.errors import BackendError, UsageError
from vmmd.units import SECTOR_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmmd.block.file import FileNode
    from vmmd.core.backend import IoDone

#: format -> (offset, magic) in the first sector, from the formats' public specifications
MAGICS: tuple[tuple[str, int, bytes], ...] = (
    ("qcow2", 0, b"QFI\xfb"),
    ("qed", 0, b"QED\x00"),
    ("vmdk", 0, b"KDMV"),
    ("vmdk", 0, b"COWD"),
    ("vmdk", 0, b"# Disk DescriptorFile"),
    ("vdi", 0x40, b"\x7f\x10\xda\xbe"),
    ("vhdx", 0, b"vhdxfile"),
    ("vpc", 0, b"conectix"),
    ("luks", 0, b"LUKS\xba\xbe"),
    ("parallels", 0, b"WithoutFreeSpace"),
    ("parallels", 0, b"WithouFreSpacExt"),
    ("bochs", 0, b"Bochs Virtual HD Image"),
    ("cloop", 0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop"),
)


def probe_format(head: bytes) -> str:
    """The format that the first sector of an image claims; "raw" when it claims none."""
    for name, offset, magic in MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return name
    return "raw"


class RawNode(BlockNode):
    driver = "raw"

    def __init__(self, config: NodeConfig, below: BlockNode, offset: int = 0, size_bytes: int | None = None) -> None:
        super().__init__(config)
        self.file = below
        self.offset = offset
        self.probed = False
        self._window = size_bytes
        self.request_alignment = below.request_alignment
        self.writes_through = below.writes_through
        self.supports_discard = config.discard and below.supports_discard
        self.name = below.name if not config.node_name else config.node_name

    def head(self, count: int, offset: int = 0) -> bytes:
        return self._below.head(min(count, self.size_bytes), self.offset + offset)

    def open(self) -> None:
        below = self._below
        if below.read_only and not self.read_only:
            raise BackendError(
                f"Block node '{below.node_name}' is read-only", f"add read-only=on to '{self.node_name}'"
            )
        if self.offset > below.size_bytes:
            raise UsageError(
                f"Offset ({self.offset}) cannot be greater than size of the containing file ({below.size_bytes})"
            )
        if self._window is not None and self.offset + self._window > below.size_bytes:
            # QEMU-COMPAT: QEMU's sentence
            raise UsageError(
                f"The sum of offset ({self.offset}) and size ({self._window}) has to be smaller or equal to the "
                f" actual size of the containing file ({below.size_bytes})"
            )
        if self._window is not None and self._window % SECTOR_BYTES:
            raise UsageError(f"Specified size is not multiple of {SECTOR_BYTES}", f"size is {self._window}")
        if self.offset % self.request_alignment:
            raise UsageError(f"offset ({self.offset})", f"it takes a multiple of {self.request_alignment} here")
        below.on_resize(self.tell_resized)
        if not self.offset:
            # nothing to add to the requests: hand out the methods of the node below
            self.readv = below.readv  # type: ignore[method-assign]
            self.flush = below.flush  # type: ignore[method-assign]
            if not self.probed and not self.read_only:
                self.writev = below.writev  # type: ignore[method-assign]

    def close(self) -> None:
        if self.file is not None:
            self.file.forget_resize(self.tell_resized)

    @property
    def _below(self) -> BlockNode:
        assert self.file is not None  # given to the constructor
        return self.file

    @property
    def filename(self) -> str:
        return super().filename if self.offset or self._window is not None else self._below.filename

    @property
    def options_shown(self) -> dict[str, object]:
        keys = super().options_shown
        if self.offset:
            keys["offset"] = self.offset
        if self._window is not None:
            keys["size"] = self._window
        return {**keys, "file": self._below.options_shown}

    @property
    def actual_size(self) -> int | None:
        return self._below.actual_size

    @property
    def size_bytes(self) -> int:
        return max(0, self._below.size_bytes - self.offset) if self._window is None else self._window

    def resizable(self, size_bytes: int) -> tuple[FileNode, int]:
        if self._window is not None:
            # QEMU-COMPAT: QEMU's sentence
            raise UsageError("Cannot resize fixed-size raw disks", f"'{self.node_name}' has size=")
        if self.read_only:
            raise UsageError(f"Block node '{self.node_name}' is read-only")
        return self._below.resizable(size_bytes + self.offset)

    def readv(self, offset: int, buffers: Sequence[memoryview], done: IoDone) -> None:
        self._below.readv(offset + self.offset, buffers, done)

    def writev(self, offset: int, buffers: Sequence[memoryview], done: IoDone) -> None:
        if self.read_only:
            done(errno.EPERM)
        elif self.probed:
            self._guarded_writev(offset, buffers, done)
        else:
            self._below.writev(offset + self.offset, buffers, done)

    def _guarded_writev(self, offset: int, buffers: Sequence[memoryview], done: IoDone) -> None:
        if offset < SECTOR_BYTES and buffers:
            head = b"".join(bytes(each[:SECTOR_BYTES]) for each in buffers[:SECTOR_BYTES])[: SECTOR_BYTES - offset]
            if offset or len(head) < SECTOR_BYTES or probe_format(head) != "raw":
                done(errno.EPERM)
                return
            # the guest could change its buffer after the check: write the checked bytes, then the rest
            self._write_checked(head, offset, buffers, done)
            return
        self._below.writev(offset + self.offset, buffers, done)

    def _write_checked(self, head: bytes, offset: int, buffers: Sequence[memoryview], done: IoDone) -> None:
        rest = skip(buffers, SECTOR_BYTES)
        self._below.writev(offset + self.offset, [memoryview(head), *rest], done)

    def flush(self, done: IoDone) -> None:
        self._below.flush(done)

    def discard(self, offset: int, length: int, done: IoDone) -> None:
        if self.read_only:
            done(errno.EPERM)
        elif self.supports_discard:
            self._below.discard(offset + self.offset, length, done)
        else:
            done(0)  # discard=ignore

    def write_zeroes(self, offset: int, length: int, may_unmap: bool, done: IoDone) -> None:
        if self.read_only:
            done(errno.EPERM)
        else:
            self._below.write_zeroes(offset + self.offset, length, may_unmap and self.config.discard, done)
