# SPDX-License-Identifier: Apache-2.0
"""Media that come and go: trays are opened and closed, media put in and taken out, while the machine runs.

    changer = MediaChanger(graph, lock, events, at_rest)
    if changer.open_tray(drive, "cd0", force=False):
        await changer.remove(drive, "cd0")

Loop thread, without the DeviceLock. Every method has QEMU's order of checks and events. ``label`` is how the user
called the drive. Images are opened, locked and closed on a thread; a medium is exchanged while the machine is at rest,
so that no request is in flight.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from vmmd.block import lock as image_lock
from vmmd.core.events import DeviceTrayMovedEvent
from vmmd.errors import StateError, UsageError, did_you_mean

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from vmmd.block.base import BlockNode
    from vmmd.block.drives import Drive
    from vmmd.block.graph import BlockGraph
    from vmmd.core.backend import MediaDevice
    from vmmd.core.events import EventSink


class MediaChanger:
    """Changes the media of one machine's drives."""

    def __init__(
        self,
        graph: BlockGraph,
        lock: threading.Lock,
        events: EventSink,
        at_rest: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self._graph = graph
        self._lock = lock
        self._events = events
        self._at_rest = at_rest

    # -- trays ---------------------------------------------------------------------------------------------------

    def open_tray(self, drive: Drive, label: str, *, force: bool) -> bool:
        """Open the tray, if there is one. False: it is locked, and the guest was asked. Raises UsageError."""
        media = _media(drive, label)
        with self._lock:
            if media is None or not media.has_tray or media.tray_open:
                return True
            locked = media.medium_locked
            if locked:
                media.eject_request(force)
                if not force:
                    return False
            self._move(drive, media, load=False)
        return True

    def close_tray(self, drive: Drive, label: str) -> None:
        """Close the tray with what is in it. Raises UsageError."""
        media = _media(drive, label)
        with self._lock:
            if media is not None and media.has_tray and media.tray_open:
                self._move(drive, media, load=True)

    def _move(self, drive: Drive, media: MediaDevice, *, load: bool) -> None:
        was_open = media.tray_open
        media.medium_changed(load)
        if media.tray_open != was_open:
            self._events.emit(DeviceTrayMovedEvent(drive.name, drive.qdev or "", media.tray_open))

    # -- media ---------------------------------------------------------------------------------------------------

    async def remove(self, drive: Drive, label: str) -> None:
        """Take the medium out, if there is one; the tray is open. Raises UsageError."""
        media = _media(drive, label)
        if not _is_open(media):
            # QEMU-COMPAT: QEMU's sentence
            raise UsageError(f"Tray of device '{label}' is not open", "blockdev-open-tray opens it")
        if drive.node is None:
            return
        drive.check_not_changing()
        drive.is_changing = True
        try:
            async with self._at_rest():
                node = drive.take_out()
            if media is not None and not media.has_tray:
                with self._lock:
                    self._move(drive, media, load=False)
            if node is not None:
                await self._put_away(node)
        finally:
            drive.is_changing = False

    async def _put_away(self, node: BlockNode) -> None:
        """A medium that is in no drive any more: the monitor's own stay open, without locks."""
        if node.is_monitors:
            await self._graph.change_locks(node, partial(node.set_lock, image_lock.NOTHING))
        else:
            await self._graph.discard(node)

    async def insert(self, drive: Drive, label: str, node: BlockNode) -> None:
        """Put ``node`` in, which nobody has; the tray is open. Raises UsageError, BackendError."""
        media = _media(drive, label)
        # QEMU-COMPAT: QEMU's sentences
        if not _is_open(media):
            raise UsageError("Tray of the device is not open", f"'{label}': blockdev-open-tray opens it")
        if drive.node is not None:
            raise UsageError("There already is a medium in the device", f"'{label}': remove it first")
        drive.check_not_changing()
        drive.is_changing, node.user = True, "a drive"
        try:
            await self._lock_as_medium(drive, node)
            async with self._at_rest():
                drive.put_in(node)
            if media is not None and not media.has_tray:
                with self._lock:
                    self._move(drive, media, load=True)
        except BaseException:
            node.user = None
            raise
        finally:
            drive.is_changing = False

    async def _lock_as_medium(self, drive: Drive, node: BlockNode) -> None:
        idle = partial(node.set_lock, image_lock.OPEN)
        await self._graph.change_locks(node, idle if drive.user is None else partial(drive.lock_as_medium, node))

    def free_node(self, name: str) -> BlockNode:
        """A node that may be put into a drive. Raises UsageError."""
        node = self._graph.nodes.get(name)
        # QEMU-COMPAT: QEMU's sentences
        if node is None:
            raise UsageError(f"Node '{name}' not found", did_you_mean(name, self._graph.nodes))
        if node.user is not None:
            raise UsageError(f"Node '{name}' is already in use", f"{node.user} uses it")
        return node

    async def eject(self, drive: Drive, label: str, *, force: bool) -> None:
        """Open the tray and take the medium out. Raises UsageError, StateError."""
        self._open_now(drive, label, force=force)
        await self.remove(drive, label)

    async def change(  # the drive, and what is put in
        self, drive: Drive, label: str, path: str, form: str | None, *, read_only: bool | None, force: bool
    ) -> None:
        """Open an image, put it in instead of what is there, and close the tray. ``read_only``: None for as the last
        one was opened. Raises UsageError, StateError, BackendError; an image that cannot be opened leaves the old one
        in; one that another process has locked leaves the drive open and empty (as with QEMU).
        """
        if read_only is None:
            read_only = drive.next_medium.read_only if drive.node is None else drive.node.read_only
        node = await self._graph.add_medium_later(drive, path, form, read_only=read_only)
        try:
            self._open_now(drive, label, force=force)
            await self.remove(drive, label)
            await self.insert(drive, label, node)
        except BaseException:
            node.user = None
            await self._graph.discard(node)
            raise
        self.close_tray(drive, label)

    def _open_now(self, drive: Drive, label: str, *, force: bool) -> None:
        if not self.open_tray(drive, label, force=force):
            # QEMU-COMPAT: QEMU's sentence
            raise StateError(
                f"Device '{label}' is locked and force was not specified, wait for tray to open and try again"
            )


def _media(drive: Drive, label: str) -> MediaDevice | None:
    """The device that has the drive; None without one. Raises UsageError when its medium stays."""
    if drive.user is not None and drive.media is None:
        # QEMU-COMPAT: QEMU's sentence
        raise UsageError(f"Device '{label}' is not removable", f"{drive.user} keeps its medium")
    return drive.media


def _is_open(media: MediaDevice | None) -> bool:
    """The device, if there is one, is ready for another medium."""
    return media is None or not media.has_tray or media.tray_open
