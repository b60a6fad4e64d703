# SPDX-License-Identifier: Apache-2.0
"""Disks as devices claim them: a node of the block graph with error policy, cache mode and statistics.

A ``Drive`` implements ``core.backend.DriveHandle``, and describes itself for query-block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmmd.block import lock
from vmmd.block.base import NodeConfig
from vmmd.block.null import NoMedium
from vmmd.core.backend import BlockStats
from vmmd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.block.base import BlockNode
    from vmmd.core.backend import MediaDevice

_NO_MEDIUM = NoMedium(NodeConfig(""))


class MediumMode(NamedTuple):
    """How the next medium of a drive is opened (blockdev-change-medium): as the last one was."""

    read_only: bool = True
    cache_direct: bool = False
    cache_no_flush: bool = False
    discard: bool = False


class Drive:
    """From ``-drive`` (``name`` is its id; ``node`` may be missing), or a claimed ``-blockdev`` (``name`` is "")."""

    def __init__(self, name: str, node: BlockNode | None) -> None:
        self.name = name
        self.node = node
        self.rerror = "auto"
        self.werror = "auto"
        self.serial: str | None = None
        self.stats = BlockStats()
        self.user: str | None = None  # the device that has claimed it
        self.qdev: str | None = None  # its QOM path, set by the machine
        #: set by a device whose errors may stop the VM: "ok"; with the VM stopped by it "failed", "nospace"
        self.io_status: str | None = None
        self.cache_writeback = True
        self.share_rw = False
        self.writes = True  # the device that has it writes to media that can be written
        self.media: MediaDevice | None = None  # the same device, when it can do with another medium
        self.next_medium = MediumMode()
        self.is_changing = False  # a medium is on its way in or out
        self._lost: Callable[[], None] | None = None

    @property
    def backend(self) -> BlockNode:
        """The node; one that fails every request when there is none."""
        return _NO_MEDIUM if self.node is None else self.node

    def head(self, count: int) -> bytes:
        """The first bytes of the medium, fewer when they cannot be read. Blocks."""
        try:
            return self.backend.head(count)
        except OSError:
            return b""

    def on_lost(self, callback: Callable[[], None]) -> None:
        """The device that has the drive wants to know when its medium is taken away."""
        self._lost = callback

    def attach_media(self, device: MediaDevice) -> None:
        """``DriveHandle.attach_media``."""
        self.media = device

    def put_in(self, node: BlockNode) -> None:
        """``node`` is the medium from now on."""
        self.node = node
        node.user = f"drive '{self.name}'" if self.name else self.user

    def take_out(self) -> BlockNode | None:
        """The medium, which nobody has any more. Nothing of the device is in flight."""
        node, self.node = self.node, None
        if node is not None:
            config = node.config
            self.next_medium = MediumMode(node.read_only, config.cache_direct, config.cache_no_flush, config.discard)
            node.user = None
            node.forget_all_resize()
        return node

    def check_not_changing(self) -> None:
        """Raises UsageError while the medium, its size or its locks are being changed."""
        if self.is_changing:
            raise UsageError(f"Device '{self.name or self.qdev}' is busy", "its medium is being changed")
        if self.node is not None:
            self.node.check_not_changing()

    def tell_lost(self) -> None:
        """The medium is gone; ``backend`` is another from now on."""
        self.io_status = None
        if self._lost is not None:
            self._lost()

    def let_go(self) -> None:
        """The device is gone."""
        self.user = self.qdev = self._lost = self.media = None
        self.share_rw, self.writes = False, True
        self.backend.forget_all_resize()

    @property
    def node_name(self) -> str:
        return "" if self.node is None else self.node.node_name

    def lock_for_device(self) -> None:
        """Take the image locks of a guest disk. May block. Raises BackendError."""
        self.lock_as_medium(self.backend)

    def lock_as_medium(self, node: BlockNode) -> None:
        """Take the image locks that ``node`` needs in this drive. May block. Raises BackendError."""
        node.set_lock(lock.for_device(self.writes and not node.read_only, self.share_rw))

    def lock_idle(self) -> None:
        """Go back to the locks of a disk without device. May block."""
        if self.node is not None:
            self.node.set_lock(lock.OPEN if self.name else lock.NOTHING)

    # -- query-block ---------------------------------------------------------------------------------------------

    @property
    def removable(self) -> bool:
        """QEMU-COMPAT: a drive without a device could be anything."""
        return self.user is None or self.media is not None

    @property
    def tray_open(self) -> bool | None:
        """None without a tray."""
        return self.media.tray_open if self.media is not None and self.media.has_tray else None

    @property
    def medium_locked(self) -> bool:
        return self.media is not None and self.media.medium_locked

    @property
    def inserted(self) -> bool:
        return self.node is not None

    @property
    def driver(self) -> str:
        return self.backend.driver

    @property
    def filename(self) -> str:
        return self.backend.filename

    @property
    def virtual_size(self) -> int:
        return self.backend.size_bytes

    @property
    def actual_size(self) -> int | None:
        return self.backend.actual_size

    @property
    def may_be_dirty(self) -> bool:
        return self.backend.may_be_dirty

    @property
    def read_only(self) -> bool:
        return self.backend.read_only

    @property
    def cache_direct(self) -> bool:
        return self.backend.cache_direct

    @property
    def cache_no_flush(self) -> bool:
        return self.backend.cache_no_flush

    @property
    def detect_zeroes(self) -> str:
        return self.backend.detect_zeroes
