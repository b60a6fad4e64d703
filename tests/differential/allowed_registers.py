# SPDX-License-Identifier: Apache-2.0
"""Registers that read otherwise on vmmd than on QEMU, on purpose, and why."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.framework.register_map import Difference


class Allowed(NamedTuple):
    """Differences on purpose: regular expressions of group and name, and why."""

    group: str
    name: str
    reason: str

    def covers(self, difference: Difference) -> bool:
        return bool(re.fullmatch(self.group, difference.group) and re.fullmatch(self.name, difference.name))


ALLOWED = (
    Allowed("local APIC", "0x350", "KVM starts with LINT0 as ExtINT on the first processor, QEMU masks it"),
    Allowed("PIT", "status of counter .", "KVM's reset state; QEMU loads its own, mode 3 without a count"),
    Allowed("CMOS", "0x0c", "the periodic flag follows the rate, enabled or not (data sheet); QEMU only when enabled"),
    Allowed("PM", "PM1 status", "QEMU sets the timer's overflow bit before the timer has run for the first time"),
    Allowed("PM", "PM1 control", "SCI_EN is the guest's to set (port B2h); QEMU without SMM sets it itself"),
    Allowed("PM", "PM1 enable, all ones", "only bits that the PIIX4 has can be set"),
    Allowed("SMBus", "0x0d", "a register of the ICH9 that the PIIX4 does not have"),
    Allowed("CPU hotplug", ".*", "no CPU hotplug in this version, nothing in the DSDT refers to it"),
    Allowed("fw_cfg etc/acpi/rsdp|fw_cfg etc/table-loader", ".*", "the ACPI tables are vmmd's own"),
    Allowed("fw_cfg etc/system-states", "content", "no S3 in this version"),
    Allowed("fw_cfg etc/tpm/log", "size", "no TPM; QEMU has the empty log of none"),
    Allowed("fw_cfg genroms/kvmvapic.bin", ".*", "an option ROM for Windows XP on old processors"),
    Allowed("i8042", ".*status.*", "bit 3 tells data from commands (data sheet); QEMU sets it once for all"),
)
