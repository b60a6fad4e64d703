# SPDX-License-Identifier: Apache-2.0
"""Offsets and bits of the PCI configuration header (PCI Local Bus 3.0, chapter 6 and appendix D, H)."""

from __future__ import annotations

CONFIG_SPACE_BYTES = 256

# header type 0 (§6.1)
REG_VENDOR_ID = 0x00
REG_DEVICE_ID = 0x02
REG_COMMAND = 0x04
REG_STATUS = 0x06
REG_REVISION = 0x08
REG_CLASS = 0x09  # three bytes: interface, sub-class, base class
REG_CACHE_LINE = 0x0C
REG_HEADER_TYPE = 0x0E
REG_BAR0 = 0x10
REG_SUBSYSTEM_VENDOR_ID = 0x2C
REG_SUBSYSTEM_ID = 0x2E
REG_ROM_BAR = 0x30
REG_CAPABILITIES = 0x34
REG_INTERRUPT_LINE = 0x3C
REG_INTERRUPT_PIN = 0x3D
FIRST_CAPABILITY = 0x40
BAR_COUNT = 6

# command (§6.2.2)
CMD_IO = 0x0001  # decode I/O BARs
CMD_MEMORY = 0x0002  # decode memory BARs
CMD_BUS_MASTER = 0x0004  # may do DMA
CMD_SERR = 0x0100
CMD_INTX_DISABLE = 0x0400
CMD_WRITABLE = CMD_IO | CMD_MEMORY | CMD_BUS_MASTER | CMD_SERR | CMD_INTX_DISABLE

# status (§6.2.3)
STATUS_INTERRUPT = 0x0008  # INTx is asserted by the function, whatever the disable bit says
STATUS_CAPABILITIES = 0x0010
STATUS_FAST_BACK = 0x0080
STATUS_DEVSEL_MEDIUM = 0x0200
STATUS_W1C = 0xF900  # parity error, system error, master and target aborts

HEADER_MULTIFUNCTION = 0x80

# base address registers (§6.2.5)
BAR_IO = 0x1
ROM_ENABLE = 0x1  # §6.2.5.2
BAR_MEM64 = 0x4
BAR_PREFETCH = 0x8

# capability ids (appendix H)
CAP_PM = 0x01
CAP_MSI = 0x05
CAP_VENDOR = 0x09
CAP_MSIX = 0x11
