# SPDX-License-Identifier: Apache-2.0
"""memory-backend-ram, -memfd and -file: host memory that becomes the guest's RAM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmmd.machine.objects.base import HostObject
from vmmd.machine.ram import RamBlock, RamSettings
from vmmd.options.objects import MemoryBackend, MemoryBackendFile, MemoryBackendMemfd

if TYPE_CHECKING:
    from vmmd.core.props import Prop
    from vmmd.options.models import MachineOptions


class MemoryObject(HostObject[MemoryBackend]):
    """A memory backend; ``block`` is there between ``open`` and ``close``."""

    def __init__(self, options: MemoryBackend, machine: MachineOptions) -> None:
        super().__init__(options)
        self.settings = settings(options, machine)
        self._block: RamBlock | None = None

    @property
    def block(self) -> RamBlock:
        assert self._block is not None  # open() came first
        return self._block

    def open(self) -> None:
        self._block = RamBlock(self.id, self.settings)

    def close(self) -> None:
        if self._block is not None:
            self._block.close()
            if not self.users:
                self._block.unmap()
            self._block = None

    def shown(self, declared: Prop[Any]) -> object:
        if declared.name in ("merge", "dump", "prealloc"):
            return getattr(self.settings, declared.name)
        return super().shown(declared)

    def refusal(self, declared: Prop[Any]) -> str:
        # QEMU-COMPAT: the sentences. With QEMU prealloc may be switched on later, and all its clients wait meanwhile
        if declared.wire_name == "size":
            return f"cannot change property size of {self.options.qom_type} "
        if declared.wire_name == "mem-path":
            return f"cannot change property 'mem-path' of {self.options.qom_type}"
        return "cannot change property value"

    def change(self, options: MemoryBackend, declared: Prop[Any]) -> None:
        value = options.values[declared.name]
        if declared.name != "discard_data":  # which is looked at when it ends
            self.block.advise(**{declared.name: value})
        self.block.settings = self.settings = self.settings._replace(**{declared.name: value})
        self.options = options


def settings(backend: MemoryBackend, machine: MachineOptions) -> RamSettings:
    """A memory backend's options as RamSettings; what it does not say follows ``-machine``, as in QEMU."""
    common = RamSettings(
        size_bytes=backend.size_bytes,
        share=backend.share,
        prealloc=backend.prealloc,
        merge=machine.mem_merge if backend.merge is None else backend.merge,
        dump=machine.dump_guest_core if backend.dump is None else backend.dump,
        reserve=backend.reserve,
    )
    if isinstance(backend, MemoryBackendMemfd):
        return common._replace(
            kind="memfd", hugetlb=backend.hugetlb, hugetlb_size_bytes=backend.hugetlbsize, seal=backend.seal
        )
    if isinstance(backend, MemoryBackendFile):
        return common._replace(kind="file", path=backend.mem_path, discard_data=backend.discard_data)
    return common
