# SPDX-License-Identifier: Apache-2.0
"""What firmware reads through fw_cfg, byte for byte on QEMU and vmmd, with a firmware that prints items on COM1."""

from __future__ import annotations

import socket
import struct
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.framework.vm import REPOSITORY, emulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.kvm, pytest.mark.qemu]

CPU = "qemu64,-cx16,-pni,-xsave"
UUID = "6a0b8f1e-3c74-4d0a-9a2e-0c9f6d2f5b11"
KEY_DIRECTORY = 0x19
#: numbers below the files, and architecture-local ones: UUID, RAM, graphics, CPUs, NUMA, menu; IRQ0 override, HPET
NUMBERS = (0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x0D, 0x0E, 0x0F, 0x8002, 0x8004)
#: QEMU's files that vmmd does not have: TPM log of no TPM, an option ROM for Windows XP on old processors
NOT_OURS = {"etc/tpm/log", "genroms/kvmvapic.bin"}
#: the tables are vmmd's own; their form has tests of its own
OWN_CONTENT = {"etc/acpi/rsdp", "etc/acpi/tables", "etc/table-loader"}

ROM_CODE = bytes.fromhex(
    "31c0 8ed0 bc0070"  # stack at 0:7000
    "e83000 88c3 e82b00 88c7"  # again: bx = selector from COM1
    "e82600 88c1 e82100 88c5"  # cx = count
    "ba1005 89d8 ef"  # outw bx, 0x510
    "ba1105 ec 88c4"  # next: ah = inb 0x511
    "bafd03 ec a820 74f8"  # wait for room
    "baf803 88e0 ee 49 75e9 ebcd"  # outb ah; next; again
    "bafd03 ec a801 74f8 baf803 ec c3"  # getc
)
RESET_VECTOR = bytes.fromhex("ea 0000 00f0")  # ljmp f000:0


def rom() -> bytes:
    image = bytearray(0x10000)
    image[: len(ROM_CODE)] = ROM_CODE
    image[0xFFF0 : 0xFFF0 + len(RESET_VECTOR)] = RESET_VECTOR
    return bytes(image)


class FwCfgReader:
    """The other end of the ROM's serial port."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def item(self, key: int, length: int) -> bytes:
        if not length:
            return b""
        self._connection.sendall(struct.pack("<HH", key, length))
        data = b""
        while len(data) < length:
            part = self._connection.recv(65536)
            assert part, "the emulator closed the serial port"
            data += part
        return data

    def files(self) -> dict[str, bytes]:
        (count,) = struct.unpack(">I", self.item(KEY_DIRECTORY, 4))
        raw = self.item(KEY_DIRECTORY, 4 + 64 * count)[4:]
        found = {}
        for at in range(0, len(raw), 64):
            size, key, _, name = struct.unpack(">IHH56s", raw[at : at + 64])
            text = name.rstrip(b"\0").decode()
            ours = text in OWN_CONTENT | NOT_OURS
            found[text] = size.to_bytes(4, "big") if ours else self.item(key, size)
        return found


@contextmanager
def reader(name: str, directory: Path, arguments: list[str]) -> Iterator[FwCfgReader]:
    """A running emulator with the ROM."""
    directory.mkdir()
    image = directory / "rom.bin"
    image.write_bytes(rom())
    path = directory / "serial"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(20)
        command = [
            *emulator(name).command, "-accel", "kvm", "-cpu", CPU, "-nodefaults", "-display", "none",
            "-bios", str(image), *NO_S3, "-chardev", f"socket,id=c,path={path}", "-device", "isa-serial,chardev=c",
            *arguments,
        ]  # fmt: skip
        process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL)
        try:
            connection = listener.accept()[0]
            connection.settimeout(20)
            with connection:
                yield FwCfgReader(connection)
        finally:
            process.terminate()
            process.wait(20)


#: LIMIT: vmmd has no suspended state yet and never offers S3; QEMU is told not to
NO_S3 = ["-global", "PIIX4_PM.disable_s3=1"]

MACHINES = {
    "plain": ["-machine", "pc", "-m", "128"],
    "large": ["-machine", "pc", "-m", "4G", "-smp", "2,maxcpus=4"],
    "openstack": [
        "-machine", "pc,hpet=off,graphics=off", "-m", "64", "-uuid", UUID,
        "-boot", "strict=on,menu=on,splash-time=1000",
        "-smbios", f"type=1,manufacturer=OpenStack Foundation,product=OpenStack Nova,version=1,serial=s,uuid={UUID}",
        "-smbios", "type=11,value=a,value=b", "-smbios", "type=0,vendor=v,release=1.2",
        "-blockdev", "null-co,node-name=d,size=1048576",
        "-device", "virtio-blk-pci,drive=d,addr=5,bootindex=1",
    ],
    "numa": [
        "-machine", "pc,hpet=off", "-m", "512", "-smp", "2,maxcpus=4,sockets=4",
        "-object", "memory-backend-ram,id=ram0,size=512M", "-numa", "node,nodeid=0,cpus=0-3,memdev=ram0",
    ],
    "no-sleep": [
        "-machine", "pc,hpet=off", "-m", "64", "-boot", "reboot-timeout=5000",
        "-global", "PIIX4_PM.disable_s4=1",
    ],
}  # fmt: skip


@pytest.mark.parametrize("machine", MACHINES)
def test_items_and_files_are_equal(tmp_path: Path, machine: str) -> None:
    seen = {}
    for name in ("qemu", "vmmd"):
        with reader(name, tmp_path / name, MACHINES[machine]) as guest:
            seen[name] = {f"{key:#x}": guest.item(key, 64) for key in NUMBERS} | guest.files()
    for name in NOT_OURS:
        seen["qemu"].pop(name, None)
    assert {key: value.hex() for key, value in seen["vmmd"].items()} == {
        key: value.hex() for key, value in seen["qemu"].items()
    }
