# SPDX-License-Identifier: Apache-2.0
"""Nodes of the block graph. A node implements ``core.backend.BlockBackend`` and describes itself for queries.

All methods run on the loop, without the DeviceLock, unless stated; ``open`` and ``close`` may block (start and end).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmmd.block.file import FileNode
    from vmmd.block.lock import LockState
    from vmmd.core.backend import IoDone


class NodeConfig:
    """What every node is told, whatever its driver."""

    __slots__ = ("cache_direct", "cache_no_flush", "discard", "force_share", "node_name", "read_only", "writes_through")

    def __init__(self, node_name: str) -> None:
        self.node_name = node_name
        self.read_only = False
        self.cache_direct = False
        self.cache_no_flush = False
        self.writes_through = False  # -drive cache=writethrough, directsync
        self.discard = False  # discard=unmap
        self.force_share = False


class BlockNode:
    """Base of all nodes."""

    driver = ""
    detect_zeroes = "off"
    cache_writeback = True  # what a device says about its cache stands in its drive

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        self.node_name = config.node_name
        self.name = config.node_name
        self.read_only = config.read_only
        self.request_alignment = 1
        self.writes_through = config.writes_through
        self.supports_discard = config.discard
        self.cache_direct = config.cache_direct
        self.cache_no_flush = config.cache_no_flush
        self.file: BlockNode | None = None  # the node below
        self.user: str | None = None  # who has it: a device or a node above
        self.parent: BlockNode | None = None  # when that is a node
        self.is_resizing = self.is_locking = False  # a thread changes the image, or its locks: it must stay open
        self.is_monitors = False  # added by itself, and removed by itself: -blockdev, blockdev-add
        self._resized: list[Callable[[], None]] = []
        self._pins = 0
        self._waiting: list[Callable[[], None]] = []

    # -- for query-block -----------------------------------------------------------------------------------------

    @property
    def filename(self) -> str:
        """The image's name; ``json:`` and options where a name alone would not open the same."""
        import json

        return "json:" + json.dumps(self.options_shown)

    @property
    def options_shown(self) -> dict[str, object]:
        """The options that say what is in the node."""
        return {"driver": self.driver}

    @property
    def actual_size(self) -> int | None:
        """Bytes allocated on the host."""
        return None

    @property
    def size_bytes(self) -> int:
        return 0

    @property
    def may_block(self) -> bool:
        """Whether ``open`` and ``close`` may: not when they only look at memory."""
        return False

    @property
    def chain_may_block(self) -> bool:
        """The same, of this node and those below."""
        return self.may_block or (self.file is not None and self.file.chain_may_block)

    @property
    def virtual_size(self) -> int:
        return self.size_bytes

    @property
    def discards(self) -> tuple[int, int, int] | None:
        """Of an image on the host: discards that succeeded, that failed, and bytes of the first."""
        return None

    @property
    def may_be_dirty(self) -> bool:
        """The image can be marked as not closed cleanly: QEMU shows the mark for all but null drivers."""
        return self.file is not None and self.file.may_be_dirty

    # -- requests that outlive their device ----------------------------------------------------------------------

    def pin(self) -> None:
        """A device that was unplugged has left requests in flight: the image must stay open until ``unpin``."""
        self._pins += 1

    def unpin(self) -> None:
        """Undo ``pin``."""
        self._pins -= 1
        if not self._pins:
            waiting, self._waiting = self._waiting, []
            for callback in waiting:
                callback()

    @property
    def is_pinned(self) -> bool:
        return self._pins > 0

    def when_free(self, callback: Callable[[], None]) -> None:
        """Call it when nobody pins the node, maybe at once."""
        if self._pins:
            self._waiting.append(callback)
        else:
            callback()

    # -- users ---------------------------------------------------------------------------------------------------

    def take(self, parent: BlockNode) -> None:
        """``parent`` lies on top from now on. Raises UsageError when somebody else has the node."""
        if self.user is not None:
            raise UsageError(f"Node '{self.node_name}' is busy: {self.user} uses it")
        self.user, self.parent = f"node '{parent.node_name}'", parent

    def release(self) -> None:
        """Undo ``take``."""
        self.user = self.parent = None

    def check_not_changing(self) -> None:
        """Raises UsageError when the image must stay as it is for a moment."""
        if self.is_resizing or self.is_locking:
            what = "its size is" if self.is_resizing else "its locks are"
            raise UsageError(f"Node {self.node_name} is in use", f"{what} being changed")
        if self.is_pinned:
            raise UsageError(f"Node {self.node_name} is in use", "an unplugged device has left requests in flight")
        if self.file is not None:
            self.file.check_not_changing()

    # -- life ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Acquire the host's resources. May block. Raises BackendError."""

    def close(self) -> None:
        """Finish what is in flight, make it durable, give everything back. Blocks. Idempotent."""

    def set_lock(self, wanted: LockState) -> None:
        """Change the permissions on the image. Raises BackendError."""
        if self.file is not None:
            self.file.set_lock(wanted)

    def head(self, count: int, offset: int = 0) -> bytes:
        """``count`` bytes from ``offset`` on, fewer at the end of the image. Blocks. Raises OSError."""
        return bytes(count)

    # -- requests ------------------------------------------------------------------------------------------------

    def readv(self, offset: int, buffers: Sequence[memoryview], done: IoDone) -> None:
        raise NotImplementedError

    def writev(self, offset: int, buffers: Sequence[memoryview], done: IoDone) -> None:
        raise NotImplementedError

    def flush(self, done: IoDone) -> None:
        raise NotImplementedError

    def discard(self, offset: int, length: int, done: IoDone) -> None:
        raise NotImplementedError

    def write_zeroes(self, offset: int, length: int, may_unmap: bool, done: IoDone) -> None:
        raise NotImplementedError

    # -- size ----------------------------------------------------------------------------------------------------

    def resizable(self, size_bytes: int) -> tuple[FileNode, int]:
        """The image to truncate, and to how many bytes, so that this node has ``size_bytes``. Raises UsageError."""
        # QEMU-COMPAT: QEMU's sentence
        raise UsageError("Image format driver does not support resize", f"driver {self.driver} has a fixed size")

    def on_resize(self, callback: Callable[[], None]) -> None:
        self._resized.append(callback)

    def forget_resize(self, callback: Callable[[], None]) -> None:
        """Undo ``on_resize``."""
        if callback in self._resized:
            self._resized.remove(callback)

    def forget_all_resize(self) -> None:
        """The device that had the node is gone."""
        self._resized.clear()

    def tell_resized(self) -> None:
        for callback in list(self._resized):
            callback()


def total(buffers: Sequence[memoryview]) -> int:
    """Bytes in a list of buffers (views of single bytes)."""
    return len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))


def skip(buffers: Sequence[memoryview], count: int) -> list[memoryview]:
    """What is left of ``buffers`` behind the first ``count`` bytes."""
    rest: list[memoryview] = []
    for buffer in buffers:
        if count >= len(buffer):
            count -= len(buffer)
        else:
            rest.append(buffer[count:] if count else buffer)
            count = 0
    return rest
