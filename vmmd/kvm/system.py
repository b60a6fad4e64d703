# SPDX-License-Identifier: Apache-2.0
"""/dev/kvm: what the host's KVM can do, and the maker of virtual machines."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

from vmmd.errors import BackendError, MissingKvmCapError
from vmmd.kvm import abi
from vmmd.kvm.cpuid_entry import CpuidEntry
from vmmd.kvm.ioctl import KvmError, ioctl, raw_ioctl

if TYPE_CHECKING:
    from vmmd.kvm.vm import KvmVm


class Kvm:
    """The system file descriptor. Any thread; owns ``fd`` until ``close``."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.api_version = ioctl(fd, abi.KVM_GET_API_VERSION, name="KVM_GET_API_VERSION")
        self._capabilities: dict[int, int] = {}

    @classmethod
    def open(cls, path: str = "/dev/kvm") -> Kvm:
        """Open the device. Raises BackendError when there is no usable KVM."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise BackendError(f"Could not access KVM kernel module: {os.strerror(error.errno or 0)}") from error
        try:
            kvm = cls(fd)
            if kvm.api_version != abi.KVM_API_VERSION:
                raise BackendError(f"kvm version {kvm.api_version} is not supported; {abi.KVM_API_VERSION} is needed")
        except BaseException:
            os.close(fd)
            raise
        return kvm

    def close(self) -> None:
        """Close the descriptor. Virtual machines made before go on."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def check_extension(self, capability: int) -> int:
        """The value of a capability; 0: not there."""
        value = self._capabilities.get(capability)
        if value is None:
            value = ioctl(self.fd, abi.KVM_CHECK_EXTENSION, capability, name="KVM_CHECK_EXTENSION")
            self._capabilities[capability] = value
        return value

    def require(self, capability: int, name: str) -> int:
        """The value of a capability that vmmd cannot do without. Raises MissingKvmCapError naming it."""
        value = self.check_extension(capability)
        if not value:
            raise MissingKvmCapError(f"The host's KVM lacks {name}")
        return value

    @property
    def vcpu_mmap_size(self) -> int:
        """Bytes to map of a vCPU descriptor."""
        return ioctl(self.fd, abi.KVM_GET_VCPU_MMAP_SIZE, name="KVM_GET_VCPU_MMAP_SIZE")

    def create_vm(self) -> KvmVm:
        """A new, empty virtual machine. Raises KvmError."""
        from vmmd.kvm.vm import KvmVm

        while True:
            try:
                return KvmVm(self, ioctl(self.fd, abi.KVM_CREATE_VM, 0, name="KVM_CREATE_VM"))
            except KvmError as error:
                if error.errno != errno.EINTR:
                    raise

    def supported_cpuid(self) -> tuple[CpuidEntry, ...]:
        """Every CPUID leaf that KVM can show a guest (KVM_GET_SUPPORTED_CPUID)."""
        count = 128
        while True:
            try:
                return read_cpuid(self.fd, abi.KVM_GET_SUPPORTED_CPUID, count, "KVM_GET_SUPPORTED_CPUID")
            except KvmError as error:
                if error.errno != errno.E2BIG or count > 4096:
                    raise
                count *= 2

    def feature_msrs(self, indices: tuple[int, ...]) -> dict[int, int]:
        """Values of feature MSRs that KVM can show a guest; those it does not know are left out."""
        values: dict[int, int] = {}
        for index in indices:
            words = (ctypes.c_uint32 * 6)(1, 0, index, 0, 0, 0)
            # SAFETY: a kvm_msrs header and the one entry it announces
            if raw_ioctl(self.fd, abi.KVM_GET_MSRS, ctypes.byref(words)) == 1:
                values[index] = words[5] << 32 | words[4]
        return values

    def msr_list(self) -> tuple[int, ...]:
        """Indices of the MSRs that make up a vCPU's state (KVM_GET_MSR_INDEX_LIST)."""
        count = 256
        while True:
            buffer = (ctypes.c_uint32 * (count + 1))(count)
            try:
                # SAFETY: the kernel writes at most buffer[0] indices and corrects the count; buffer lives until return
                ioctl(self.fd, abi.KVM_GET_MSR_INDEX_LIST, ctypes.byref(buffer), name="KVM_GET_MSR_INDEX_LIST")
            except KvmError as error:
                if error.errno != errno.E2BIG or count > 65536:
                    raise
                count *= 2
                continue
            return tuple(buffer[1 : 1 + buffer[0]])


def read_cpuid(fd: int, request: int, count: int, name: str) -> tuple[CpuidEntry, ...]:
    """Run one of the ioctls that fill a ``kvm_cpuid2`` with room for ``count`` entries. Raises KvmError."""
    header = ctypes.sizeof(abi.Cpuid2)
    size = ctypes.sizeof(abi.CpuidEntry2)
    # SAFETY: header and entries are in one buffer of the size announced in nent; it lives until the copy below
    buffer = ctypes.create_string_buffer(header + count * size)
    abi.Cpuid2.from_buffer(buffer).nent = count
    ioctl(fd, request, buffer, name=name)
    found = min(abi.Cpuid2.from_buffer(buffer).nent, count)
    words = memoryview(buffer.raw).cast("I")
    entries = []
    for position in range(found):
        start = (header + position * size) // 4
        function, index, flags, eax, ebx, ecx, edx = words[start : start + 7]
        indexed = bool(flags & abi.KVM_CPUID_FLAG_SIGNIFCANT_INDEX)
        entries.append(CpuidEntry(function, index, indexed, eax, ebx, ecx, edx))
    return tuple(entries)


def pack_cpuid(entries: tuple[CpuidEntry, ...]) -> ctypes.Array[ctypes.c_uint32]:
    """A ``kvm_cpuid2`` holding ``entries``, for KVM_SET_CPUID2."""
    words = [len(entries), 0]
    for entry in entries:
        flags = abi.KVM_CPUID_FLAG_SIGNIFCANT_INDEX if entry.indexed else 0
        words += (entry.function, entry.index, flags, entry.eax, entry.ebx, entry.ecx, entry.edx, 0, 0, 0)
    return (ctypes.c_uint32 * len(words))(*words)
