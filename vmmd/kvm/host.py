# SPDX-License-Identifier: Apache-2.0
"""What kind of KVM the host has: whose instructions it uses, which module, and how it maps guest memory.

KVM's interface does not tell; ``/sys/module`` does: the vendor module in use, and its ``ept`` or ``npt`` parameter.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Literal, NamedTuple

Vendor = Literal["vmx", "svm", "other"]
Paging = Literal["ept", "npt", "shadow", "unknown"]

#: flag of /proc/cpuinfo, module, its parameter for two-dimensional paging
_KNOWN: tuple[tuple[Vendor, str, Literal["ept", "npt"]], ...] = (("vmx", "kvm_intel", "ept"), ("svm", "kvm_amd", "npt"))
#: the flags of the first CPU are within so many bytes; a file of 256 CPUs takes the kernel 10 ms to write
_CPUINFO_BYTES = 8192


class HostKvm(NamedTuple):
    """``module`` is "kvm" when no vendor module is to be seen."""

    vendor: Vendor
    module: str
    paging: Paging


@cache
def host_kvm(modules: str = "/sys/module", cpuinfo: str = "/proc/cpuinfo") -> HostKvm:
    """The KVM of this host; it does not change while vmmd runs. "unknown" is an answer, a guess is not."""
    flags = _cpu_flags(cpuinfo)
    for vendor, module, parameter in _KNOWN:
        if vendor in flags and os.path.isdir(f"{modules}/{module}"):
            return HostKvm(vendor, module, _paging(f"{modules}/{module}/parameters/{parameter}", parameter))
    return HostKvm("other", _other_module(modules), "unknown")


def _cpu_flags(path: str) -> set[str]:
    for line in _read(path, _CPUINFO_BYTES).split("\n"):
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return set(value.split())
    return set()


def _paging(path: str, two_dimensional: Literal["ept", "npt"]) -> Paging:
    value = _read(path, 16).strip()
    if value in ("Y", "1"):
        return two_dimensional
    return "shadow" if value in ("N", "0") else "unknown"


def _other_module(modules: str) -> str:
    """The module that is neither Intel's nor AMD's: a KVM without hardware, or a later one."""
    known = {module for _, module, _ in _KNOWN}
    try:
        found = sorted(each for each in os.listdir(modules) if each.startswith("kvm_") and each not in known)
    except OSError:
        return "kvm"
    return found[0] if found else "kvm"


def _read(path: str, size: int) -> str:
    """The first bytes of a file, "" when it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return (file.read(size) or b"").decode("ascii", "replace")
    except OSError:
        return ""
