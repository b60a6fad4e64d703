# SPDX-License-Identifier: Apache-2.0
"""The character devices of a machine by id, and how they come, change and go while it runs. Loop thread only.

Each operation is all or nothing: what can fail (connecting, binding, opening) happens before anything is changed, and
off the loop where it may wait. A device that goes is given half a second to write out what it was told, without anybody
waiting for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.chardev.base import Chardev
from vmmd.chardev.listen import ListenSocket
from vmmd.core.backend import SwappableFrontend
from vmmd.core.background import on_thread
from vmmd.errors import StateError, UsageError, VmmdError
from vmmd.log import get_logger

if TYPE_CHECKING:
    import threading

    from vmmd.chardev.options import CharOptions
    from vmmd.core.fdsets import FdSets
    from vmmd.core.notify import LoopPort

log = get_logger("vmmd.machine")

#: as many at most; each may take descriptors and a megabyte
MAX_CHARDEVS = 1024
#: patience with a peer that does not answer a connect
CONNECT_TIMEOUT_S = 30.0


class Chardevs(dict[str, "Chardev | ListenSocket"]):
    """Monitors' listening sockets among them."""

    def __init__(self, loop: LoopPort, lock: threading.Lock, fdsets: FdSets) -> None:
        super().__init__()
        self._loop = loop
        self._lock = lock
        self._fdsets = fdsets
        self._coming: set[str] = set()  # ids of devices that are being opened

    async def add(self, options: CharOptions) -> Chardev:
        """Make and open a new device. Raises VmmdError."""
        id_ = options.id
        if id_ in self or id_ in self._coming:
            raise UsageError(f"Chardev with id '{id_}' already exists")
        if len(self) + len(self._coming) >= MAX_CHARDEVS:
            raise UsageError(f"There are {MAX_CHARDEVS} character devices already", "chardev-remove takes one away")
        self._coming.add(id_)
        try:
            made = await self._opened(options)
        except VmmdError as error:
            error.desc = f"Failed to add chardev '{id_}': {error.desc}"
            raise
        finally:
            self._coming.discard(id_)
        self[id_] = made
        return made

    def remove(self, id_: str) -> None:
        """Take a device away that nothing uses. Raises VmmdError."""
        found = self.get(id_)
        if found is None:
            raise UsageError(f"Chardev '{id_}' not found")
        if not isinstance(found, Chardev) or found.frontend is not None:
            raise StateError(f"Chardev '{id_}' is busy", "its user has to go first")
        del self[id_]
        found.retire()

    async def change(self, options: CharOptions) -> Chardev:
        """Put a new backend in the place of the device of that id, under the same front end. Raises VmmdError, and
        then nothing has changed."""
        id_ = options.id
        old = self._changeable(id_)
        made = await self._opened(options)
        if self.get(id_) is not old:
            made.close()
            raise StateError(f"Chardev '{id_}' was changed or removed meanwhile", "try again")
        with self._lock:
            made.take_over(old)
            self[id_] = made
        old.retire()
        return made

    def _changeable(self, id_: str) -> Chardev:
        found = self.get(id_)
        if found is None:
            raise UsageError(f"Chardev '{id_}' does not exist", "chardev-add makes one")
        swappable = isinstance(found, Chardev) and (
            found.frontend is None or isinstance(found.frontend, SwappableFrontend)
        )
        if not swappable or not isinstance(found, Chardev):
            raise StateError("Chardev user does not support chardev hotswap", f"'{id_}' belongs to a monitor")
        return found

    async def _opened(self, options: CharOptions) -> Chardev:
        from vmmd import chardev

        made = chardev.create(options, self._loop, self._lock, self._fdsets)
        made.patience_s = CONNECT_TIMEOUT_S
        try:
            if made.open_may_wait:
                await on_thread(self._loop, made.open, f"open/{options.id}")
            else:
                made.open()
        except BaseException:
            made.remove_created()
            raise
        return made

    def close(self) -> None:
        """The machine ends: write out what is buffered, give everything back. Monitors' sockets are their server's."""
        for id_, each in list(self.items()):
            if not isinstance(each, ListenSocket):
                try:
                    each.close()
                except Exception:
                    log.exception("at the end of character device %s", id_)
