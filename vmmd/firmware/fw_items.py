# SPDX-License-Identifier: Apache-2.0
"""What the pc machine publishes through fw_cfg: numbers under fixed keys and the files SeaBIOS and U-Boot ask for.

``publish`` is called once, after all devices are plugged. Contents that depend on what the firmware programmed (ACPI
tables) are callables; they are evaluated when the guest first selects them after a reset.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmmd.firmware.acpi_tables import AcpiBlobs

#: sizes that the directory announces for the ACPI files (the content is smaller and filled up with zeros)
ACPI_TABLES_BYTES = 0x20000
LOADER_BYTES = 0x1000
RSDP_BYTES = 20

# keys of the fw_cfg specification
_UUID, _RAM_SIZE, _NOGRAPHIC, _NB_CPUS, _NUMA, _BOOT_MENU, _MAX_CPUS = 2, 3, 4, 5, 0xD, 0xE, 0xF
_IRQ0_OVERRIDE, _HPET = 0x8002, 0x8004


class FwSink(Protocol):
    """``devices.isa.fw_cfg.FwCfg``."""

    def add_bytes(self, key: int, data: bytes | Callable[[], bytes]) -> None: ...

    def add_int(self, key: int, value: int, size_bytes: int) -> None: ...

    def add_file(self, name: str, data: bytes | Callable[[], bytes], *, size_bytes: int | None = None) -> None: ...


class FwItems(NamedTuple):
    """The machine as its firmware sees it. Sizes in bytes, times in milliseconds."""

    ram_bytes: int
    e820: bytes  # firmware.e820.firmware_table
    smbios: tuple[bytes, bytes]  # firmware.smbios.build
    acpi: Callable[[], AcpiBlobs] | None  # None: -no-acpi
    bootorder: bytes  # firmware.bootorder.text
    geometry: bytes = b""  # firmware.bootorder.geometry_text
    cpus: int = 1
    max_cpus: int = 1
    uuid: bytes = bytes(16)
    graphics: bool = True
    boot_menu: bool = False
    splash_time_ms: int | None = None  # -boot splash-time
    reboot_timeout_ms: int | None = None  # -boot reboot-timeout
    disable_s3: bool = False
    disable_s4: bool = False
    s4_value: int = 2
    hpet_block_id: int | None = None  # low half of its capabilities; None: no HPET
    numa: Sequence[tuple[int, Sequence[int]]] = ()  # per node: bytes of RAM, its CPU indices
    extra_files: Sequence[tuple[str, bytes]] = ()  # -fw_cfg, -boot splash


def publish(sink: FwSink, items: FwItems) -> None:
    """Fill fw_cfg. The keys and files are those of QEMU's pc machines (measured on 7.2)."""
    sink.add_bytes(_UUID, items.uuid)
    sink.add_int(_RAM_SIZE, items.ram_bytes, 8)
    sink.add_int(_NOGRAPHIC, 0 if items.graphics else 1, 2)
    sink.add_int(_NB_CPUS, items.cpus, 2)
    sink.add_int(_MAX_CPUS, items.max_cpus, 2)
    sink.add_int(_BOOT_MENU, 1 if items.boot_menu else 0, 2)
    sink.add_int(_IRQ0_OVERRIDE, 1, 4)
    sink.add_bytes(_NUMA, _numa(items))
    sink.add_bytes(_HPET, _hpet(items.hpet_block_id))
    sink.add_file("bootorder", items.bootorder)
    sink.add_file("bios-geometry", items.geometry)
    timeout = items.reboot_timeout_ms
    sink.add_file("etc/boot-fail-wait", struct.pack("<i", -1 if timeout is None else timeout))
    if items.splash_time_ms is not None:
        sink.add_file("etc/boot-menu-wait", struct.pack("<H", items.splash_time_ms))
    sink.add_file("etc/e820", items.e820)
    anchor, tables = items.smbios
    sink.add_file("etc/smbios/smbios-anchor", anchor)
    sink.add_file("etc/smbios/smbios-tables", tables)
    sink.add_file("etc/system-states", system_states(items.disable_s3, items.disable_s4, items.s4_value))
    if items.acpi is not None:
        _publish_acpi(sink, items.acpi)
    for name, content in items.extra_files:
        sink.add_file(name, content)


def _publish_acpi(sink: FwSink, build: Callable[[], AcpiBlobs]) -> None:
    """The firmware reads RSDP, tables and script right after one another: each asks for the same build."""
    sink.add_file("etc/acpi/rsdp", lambda: build().rsdp, size_bytes=RSDP_BYTES)
    sink.add_file("etc/acpi/tables", lambda: build().tables, size_bytes=ACPI_TABLES_BYTES)
    sink.add_file("etc/table-loader", lambda: build().loader_script, size_bytes=LOADER_BYTES)


def system_states(disable_s3: bool, disable_s4: bool, s4_value: int = 2) -> bytes:
    """``etc/system-states``: one byte per sleep state, bit 7 says that it exists, the rest is its SLP_TYP."""
    present = 0x80
    s3 = 1 | (0 if disable_s3 else present)
    s4 = s4_value | (0 if disable_s4 else present)
    return bytes((present, 0, 0, s3, s4, present))


def _hpet(block_id: int | None) -> bytes:
    """The legacy HPET item: a count and four 15-byte slots; count 0xff stands for «not known» (no HPET)."""
    if block_id is None:
        return b"\xff" + bytes(60)
    return b"\x01" + struct.pack("<IQHB", block_id, 0xFED0_0000, 0, 0) + bytes(45)


def _numa(items: FwItems) -> bytes:
    """Number of nodes, the node of every possible CPU, the RAM of every node; 64-bit numbers."""
    if not items.numa:
        return bytes(8 + 8 * items.max_cpus)
    node_of = [0] * items.max_cpus
    for node, (_, cpus) in enumerate(items.numa):
        for cpu in cpus:
            node_of[cpu] = node
    sizes = [size for size, _ in items.numa]
    return struct.pack(f"<{1 + len(node_of) + len(sizes)}Q", len(sizes), *node_of, *sizes)
