# SPDX-License-Identifier: Apache-2.0
"""Finds backends for devices by id (core.device.Backends): each serves one device at a time; random bytes serve all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.chardev.listen import ListenSocket
from vmmd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.backend import CharBackend, DriveHandle, EntropySource, Nic, NicPort
    from vmmd.machine.vm import Vm


class MachineBackends:
    """Looks in the Vm's character devices and the block layer's drives."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        #: how to give back what ``entropy`` and ``nic`` have made, by identity
        self._given: dict[int, Callable[[], None]] = {}

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

    def entropy(self, id_: str | None, user: str) -> EntropySource:
        from vmmd.machine.objects.rng import KernelEntropy, RngBuiltinObject, RngRandomObject

        if not id_:
            return KernelEntropy()
        found = self._vm.objects.get(id_)
        if not isinstance(found, RngBuiltinObject | RngRandomObject):
            raise no_rng(id_, known=found is not None)
        source = found.source(self._vm.loop)
        found.users.append(user)

        def give_back() -> None:
            source.close()
            found.users.remove(user)

        self._given[id(source)] = give_back
        return source

    def nic(self, nic: Nic, netdev: str | None, mac: bytes | None = None) -> NicPort:
        network = self._vm.network()
        port = network.connect(nic, netdev or None, mac)
        self._given[id(port)] = lambda: network.disconnect(port)
        return port

    def release(self, backend: object) -> None:
        give_back = self._given.pop(id(backend), None)
        if give_back is not None:
            give_back()
        elif self._vm.block is not None:
            self._vm.block.release(backend)


def no_rng(id_: str, *, known: bool) -> UsageError:
    """``rng=`` names no source of random bytes."""
    # QEMU-COMPAT: the sentences
    if known:
        return UsageError("Invalid parameter type for 'rng', expected: rng-backend", f"object {id_} is of another type")
    return UsageError(f"Device '{id_}' not found", "no -object rng-random or rng-builtin has this id")
