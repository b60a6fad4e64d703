# SPDX-License-Identifier: Apache-2.0
"""The block graph: nodes by name, drives by id, and the engines they share.

    graph = BlockGraph(loop, fdsets)
    graph.add(blockdev_options)          # a -blockdev node
    graph.add_drive(drive_options)       # a -drive
    drive = graph.claim("disk0", "virtio-blk-device")
    graph.close()                        # flushes

Loop thread, or start-up before the loop runs. ``add`` and ``add_drive`` open files; when they fail nothing is left.
While the machine runs, ``add_later`` and its kin do that on a thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.block import lock
from vmmd.block.addition import Addition, remove
from vmmd.block.drives import Drive
from vmmd.block.steps import run_later, run_now
from vmmd.core.background import on_thread
from vmmd.errors import DeviceNotFoundError, UsageError, VmmdError, did_you_mean
from vmmd.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.block.auto import AutoEngine
    from vmmd.block.base import BlockNode
    from vmmd.block.file import Engine
    from vmmd.block.pool import ThreadPool
    from vmmd.block.uring import UringEngine
    from vmmd.core.backend import IoDone
    from vmmd.core.fdsets import FdSets
    from vmmd.core.notify import LoopPort

log = get_logger("vmmd.block")

_THREAD = "block"


class BlockGraph:
    def __init__(self, loop: LoopPort, fdsets: FdSets | None = None) -> None:
        self.nodes: dict[str, BlockNode] = {}
        self.drives: dict[str, Drive] = {}
        #: names of what is being added or removed just now
        self.reserved: set[str] = set()
        self.loop = loop
        self.fdsets = fdsets
        #: drives, claimed nodes, and what is left of drives that were taken from under their device; oldest first
        self.disks: list[Drive] = []
        self._pool: ThreadPool | None = None
        self._uring: UringEngine | None = None
        self._auto: AutoEngine | None = None
        self._numbered = 0
        self._left_over: list[BlockNode] = []  # media, not the monitor's, of drives that went with their device
        self._to_unlock: set[str] = set()  # drives and nodes that may have locks for a device which is not there

    # -- adding and removing -------------------------------------------------------------------------------------

    def add(self, options: object) -> BlockNode:
        """Open the node of a ``-blockdev``. Blocks. Raises UsageError, BackendError."""
        return run_now(Addition(self).node(options))

    def add_drive(self, options: object) -> Drive:
        """Open a ``-drive``. Blocks. Raises UsageError, BackendError."""
        return run_now(Addition(self).drive(options))

    async def add_later(self, options: object) -> BlockNode:
        """``add`` while the loop goes on."""
        return await run_later(self.loop, Addition(self).node(options), _THREAD)

    async def add_drive_later(self, options: object) -> Drive:
        """``add_drive`` while the loop goes on."""
        return await run_later(self.loop, Addition(self).drive(options), _THREAD)

    async def add_medium_later(self, drive: Drive, path: str, form: str | None, *, read_only: bool) -> BlockNode:
        """Open an image that is going to be put into ``drive``; the loop goes on. Raises UsageError, BackendError."""
        return await run_later(self.loop, Addition(self).medium(drive, path, form, read_only=read_only), _THREAD)

    async def remove(self, name: str) -> None:
        """Close a node that ``add`` made (blockdev-del). Raises VmmdError: none of that name, or somebody uses it."""
        node = self.nodes.get(name)
        # QEMU-COMPAT: QEMU's sentences, in its order
        if node is None:
            raise VmmdError(f"Failed to find node with node-name='{name}'", did_you_mean(name, self.nodes))
        if node.user is not None and node.parent is None:
            raise VmmdError(f"Node {name} is in use", self._holder(node))
        if not node.is_monitors:
            raise VmmdError(f"Node {name} is not owned by the monitor", "it goes with the node or drive it belongs to")
        if node.parent is not None:
            raise VmmdError(f"Block device {name} is in use", f"{node.user} uses it")
        node.check_not_changing()
        await self.discard(node)

    def empty(self, name: str) -> BlockNode | None:
        """Forget a drive (drive_del); its node is left for ``discard``. A device that has the drive keeps it, empty and
        without name: nothing of the device may be in flight. Raises VmmdError: none of that name, or its size
        or its locks are being changed."""
        drive = self.drive(name)
        drive.check_not_changing()
        return self._forget(drive)

    def _forget(self, drive: Drive) -> BlockNode | None:
        node, drive.node = drive.node, None
        del self.drives[drive.name]
        drive.name = ""
        if drive.user is None:
            self.disks.remove(drive)
        else:
            drive.tell_lost()
        if node is not None:
            node.user = None
        return node

    async def discard(self, node: BlockNode) -> None:
        """Close a node that nobody uses any more."""
        await run_later(self.loop, remove(self, node), _THREAD)

    async def resize(self, node: BlockNode, size_bytes: int) -> None:
        """Make an image larger or smaller; who has it is told. Raises UsageError, BackendError."""
        image, image_bytes = node.resizable(size_bytes)
        image.check_not_changing()
        image.is_resizing = True
        try:
            await image.truncate(image_bytes)
        finally:
            image.is_resizing = False
        image.refresh_size()

    def drive(self, name: str) -> Drive:
        """A drive by its id. Raises DeviceNotFoundError."""
        drive = self.drives.get(name)
        if drive is None:
            # QEMU-COMPAT: QEMU's sentence
            raise DeviceNotFoundError(f"Device '{name}' not found")
        return drive

    def find(self, name: str) -> BlockNode:
        """A node by its name, or the one of a drive by its id. Raises UsageError."""
        found = self.nodes.get(name)
        if found is None and name in self.drives:
            found = self.drives[name].node
        if found is None:
            raise UsageError(
                f"Cannot find device='{name}' nor node-name='{name}'", did_you_mean(name, [*self.nodes, *self.drives])
            )
        return found

    def new_name(self) -> str:
        """For a node to which the user gave none."""
        self._numbered += 1
        return f"#block{self._numbered:03d}"

    def new_drive_id(self) -> str:
        """For a drive to which the user gave none."""
        # QEMU-COMPAT: the name
        start = len(self.drives)
        return next(name for number in range(start, 2 * start + 1) if (name := f"none{number}") not in self.drives)

    # -- claims --------------------------------------------------------------------------------------------------

    async def lock_later(self, id_: str, *, share_rw: bool) -> None:
        """Take the image locks of a guest disk on a thread: a ``claim`` right after it waits for nobody; who does not
        claim it says so by ``spare``. What no device can have is left for ``claim`` to refuse. Raises BackendError,
        and UsageError when somebody else is about to change the image.
        """
        drive = self._unclaimed(id_)
        if drive is not None:
            drive.check_not_changing()
            drive.share_rw = share_rw
            await self.change_locks(drive.backend, drive.lock_for_device)

    def spare(self, id_: str) -> None:
        """Nobody claims what ``lock_later`` has locked: ``unlock_later`` has it to unlock."""
        self._to_unlock.add(id_)

    def retire(self, drive: Drive) -> None:
        """Forget a ``-drive`` that goes with its device: its node is left for ``unlock_later`` to close. Not after
        drive_del."""
        if self.drives.get(drive.name) is drive:
            node = self._forget(drive)
            if node is not None:
                self._left_over.append(node)

    async def unlock_later(self) -> None:
        """Go back, on a thread, to the image locks of disks without device, where there is none any more; close the
        media that went with their drives."""
        while self._left_over:
            await self._close_later(self._left_over.pop())
        while self._to_unlock:
            drive = self._unclaimed(self._to_unlock.pop())
            if drive is None:
                continue
            await self._until_free(drive.backend)
            try:
                await self.change_locks(drive.backend, drive.lock_idle)
            except (OSError, VmmdError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                log.error("node %s: the locks of its image were not given back: %s", drive.node_name, reason)

    async def _close_later(self, node: BlockNode) -> None:
        """Close it, when no request is in flight any more."""
        await self._until_free(node)
        await self.discard(node)

    async def _until_free(self, node: BlockNode) -> None:
        if node.is_pinned:
            free = self.loop.create_future()
            node.when_free(lambda: free.set_result(None))
            await free

    def _unclaimed(self, id_: str) -> Drive | None:
        """A disk with an image and without device."""
        drive = self.drives.get(id_) or Drive("", self.nodes.get(id_))
        node = drive.node
        return None if node is None or (drive.user if drive.name else node.user) is not None else drive

    async def change_locks(self, node: BlockNode, change: Callable[[], None]) -> None:
        """``change`` the image locks of a node, on a thread where that may block. Raises what it raises."""
        if not node.chain_may_block:
            change()
            return
        node.is_locking = True
        try:
            await on_thread(self.loop, change, _THREAD)
        finally:
            node.is_locking = False

    def claim(
        self, id_: str, user: str, *, share_rw: bool = False, allow_empty: bool = False, writes: bool = True
    ) -> Drive:
        """The drive or node for one device. Takes the image locks, which may block, unless ``lock_later`` has. Raises
        UsageError (unknown, in use, empty), BackendError (locked)."""
        drive = self._claimable(id_, user)
        if drive.node is None and not allow_empty:
            raise UsageError("Device needs media, but drive is empty", f"drive '{id_}' has no file=")
        drive.share_rw, drive.writes = share_rw, writes
        self._give(drive, user)
        return drive

    def claim_empty(self, user: str, *, share_rw: bool = False, writes: bool = True) -> Drive:
        """A drive of its own for a device that was given none."""
        drive = Drive("", None)
        drive.share_rw, drive.writes = share_rw, writes
        self._give(drive, user)
        return drive

    def _give(self, drive: Drive, user: str) -> None:
        drive.user = user
        try:
            if drive.node is not None:
                drive.lock_for_device()
        except BaseException:
            drive.let_go()
            raise
        if not drive.name:
            if drive.node is not None:
                drive.node.user = user
            self.disks.append(drive)

    def _claimable(self, id_: str, user: str) -> Drive:
        """A drive, or one made for a node, that no device has. Raises UsageError."""
        drive = self.drives.get(id_)
        if drive is None:
            node = self.nodes.get(id_)
            if node is None:
                hint = did_you_mean(id_, [*self.nodes, *self.drives]) or "no drive or node has this name"
                raise UsageError(f"Property '{user}.drive' can't find value '{id_}'", hint)
            if node.user is not None:
                raise UsageError(f"Drive '{id_}' is already in use by another device", self._holder(node))
            drive = Drive("", node)
        elif drive.user is not None:
            raise UsageError(f"Drive '{id_}' is already in use by another device", f"{drive.qdev} uses it")
        return drive

    def _holder(self, node: BlockNode) -> str:
        """Who has a node, for the user to know what to remove first."""
        device = next((disk.qdev for disk in self.disks if disk.node is node and disk.qdev), None)
        return f"{device or node.user} uses it"

    def release(self, drive: object) -> None:
        """Give a claimed drive back; its image keeps the locks until ``unlock_later`` or its end. Idempotent; not for
        backends of other kinds."""
        if not isinstance(drive, Drive) or drive.user is None:
            return
        drive.let_go()
        if drive.node is not None:
            self._to_unlock.add(drive.name or drive.node_name)
        if not drive.name:
            self.disks.remove(drive)
            if drive.node is not None:
                drive.node.user = None
                if not drive.node.is_monitors:
                    self._left_over.append(drive.node)

    def query(self) -> list[Drive]:
        """Drives and claimed nodes, the oldest first."""
        return list(self.disks)

    def all_nodes(self) -> list[BlockNode]:
        """In the order in which they were added."""
        return list(self.nodes.values())

    # -- engines and the end -------------------------------------------------------------------------------------

    def threads(self) -> ThreadPool:
        if self._pool is None:
            from vmmd.block.pool import ThreadPool

            self._pool = ThreadPool(self.loop)
        return self._pool

    def engine(self, aio: str | None) -> Engine:
        if aio == "threads":
            return self.threads()
        if aio is None:
            if self._auto is None:
                from vmmd.block.auto import AutoEngine

                self._auto = AutoEngine(self.threads(), self._io_uring)
            return self._auto
        return self._io_uring()

    def _io_uring(self) -> UringEngine:
        if self._uring is None:
            from vmmd.block.uring import UringEngine

            self._uring = UringEngine(self.loop)
        return self._uring

    def drain(self) -> None:
        """Wait until no request is in flight. Blocks."""
        while any(each is not None and each.in_flight for each in (self._uring, self._pool)):
            for engine in (self._uring, self._pool):
                if engine is not None:
                    engine.drain()

    def flush_all(self, done: IoDone) -> None:
        """Make every writable image durable (the VM stops); ``done`` gets the first error. Loop thread."""
        waiting = [drive.node for drive in self.query() if drive.node is not None and not drive.read_only]
        left, first = len(waiting), 0

        def flushed(error: int) -> None:
            nonlocal left, first
            left -= 1
            first = first or error
            if not left:
                done(first)

        if not waiting:
            done(0)
        for node in waiting:
            node.flush(flushed)

    def close(self) -> None:
        """Finish what is in flight, flush, close every image. Blocks. Idempotent."""
        self.drain()
        for drive in self.query():
            drive.user = drive.media = None
        for node in reversed(list(self.nodes.values())):
            node.close()
        self.nodes.clear()
        self.drives.clear()
        self.disks.clear()
        for engine in (self._uring, self._pool):
            if engine is not None:
                engine.close()
        self._uring = self._pool = self._auto = None


__all__ = ["BlockGraph", "lock"]
