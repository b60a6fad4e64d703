# SPDX-License-Identifier: Apache-2.0
"""Finds backends for devices by id (core.device.Backends): each serves one device at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.chardev.listen import ListenSocket
from vmmd.errors import UsageError

if TYPE_CHECKING:
    from vmmd.core.backend import CharBackend, DriveHandle
    from vmmd.machine.vm import Vm


class MachineBackends:
    """Looks in the Vm's character devices and the block layer's drives."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm

    def chardev(self, id_: str, user: str) -> CharBackend:
        found = self._vm.chardevs.get(id_)
        if found is None or isinstance(found, ListenSocket):
            raise UsageError(f"Property '{user}.chardev' can't find value '{id_}'", "no chardev has this id")
        return found

    def drive(
        self, id_: str, user: str, *, share_rw: bool = False, allow_empty: bool = False, writes: bool = True
    ) -> DriveHandle:
        if not id_ and allow_empty:
            return self._vm.block_graph().claim_empty(user, share_rw=share_rw, writes=writes)
        if self._vm.block is None:
            raise UsageError(f"Property '{user}.drive' can't find value '{id_}'", "there are no drives")
        return self._vm.block.claim(id_, user, share_rw=share_rw, allow_empty=allow_empty, writes=writes)

    def release(self, backend: object) -> None:
        if self._vm.block is not None:
            self._vm.block.release(backend)
