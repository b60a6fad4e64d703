# SPDX-License-Identifier: Apache-2.0
"""Option ROMs of a whole machine, vmmd and QEMU: the register, the bytes, the errors, and what firmware is told."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.qtest import QmpFailure, Qtest

if TYPE_CHECKING:
    from collections.abc import Sequence

SLOT, ROM = 4, 0x30
AT = 0xE000_0000
KEY_DIRECTORY = 0x19
IPXE = Path("/usr/lib/ipxe/qemu")

both = pytest.mark.parametrize("name", ["vmmd", pytest.param("qemu", marks=pytest.mark.qemu)])
needs_ipxe = pytest.mark.skipif(not (IPXE / "efi-virtio.rom").is_file(), reason="Debian's ipxe-qemu is not installed")


def image(directory: Path, name: str = "x.rom", size: int = 5000) -> Path:
    path = directory / name
    path.write_bytes(b"\x55\xaa" + bytes(index % 251 for index in range(size - 2)))
    return path


def machine(name: str, *args: str) -> Qtest:
    return Qtest(name, "-nodefaults", "-vga", "none", "-m", "32", *args)


def refused(name: str, *args: str) -> str:
    """stderr of a start that fails."""
    vm = machine(name, *args)
    with pytest.raises((AssertionError, OSError)):
        vm.start()
    return vm.stderr


def firmware_files(vm: Qtest) -> dict[str, bytes]:
    """What firmware finds in fw_cfg."""
    vm.outw(0x510, KEY_DIRECTORY)

    def take(count: int) -> bytes:
        return bytes(vm.inb(0x511) for _ in range(count))

    entries = [struct.unpack(">IHH56s", take(64)) for _ in range(struct.unpack(">I", take(4))[0])]
    found = {}
    for size, key, _, name in entries:
        text = name.rstrip(b"\0").decode()
        if text.startswith("genroms/") or text == "bootorder":
            vm.outw(0x510, key)
            found[text] = take(min(size, 64)) + size.to_bytes(4, "big")
    found.pop("genroms/kvmvapic.bin", None)
    return found


@both
def test_the_register_shows_the_file(name: str, tmp_path: Path) -> None:
    path = image(tmp_path)
    with machine(name, "-device", f"virtio-rng-pci,addr={SLOT},id=d,romfile={path}") as vm:
        function = vm.pci(SLOT)
        assert function.config_read(ROM, 4) == 0
        for value, back in ((0xFFFF_FFFF, 0xFFFF_E001), (0xFFFF_FFFE, 0xFFFF_E000), (0x1234_5678, 0x1234_4000)):
            function.config_write(ROM, 4, value)
            assert function.config_read(ROM, 4) == back
        function.config_write(4, 2, 2)
        function.config_write(ROM, 4, AT)
        switched_off = vm.read(AT, 4)
        assert switched_off == vm.read(AT + 0x10_0000, 4)
        function.config_write(ROM, 4, AT | 1)
        assert vm.read(AT, 8192) == path.read_bytes().ljust(8192, b"\0")
        vm.writel(AT, 0x1234_5678)
        assert vm.read(AT, 4) == path.read_bytes()[:4]
        assert [vm.readb(AT + 1), vm.readw(AT), vm.readq(AT)] == [
            int.from_bytes(path.read_bytes()[at : at + size], "little") for at, size in ((1, 1), (0, 2), (0, 8))
        ]
        (device,) = [each for each in vm.qmp("query-pci")[0]["devices"] if each["qdev_id"] == "d"]
        assert device["regions"][-1] == {
            "bar": 6, "type": "memory", "size": 8192, "address": AT, "prefetch": False, "mem_type_64": False
        }  # fmt: skip
        assert vm.hmp(f"xp /2xb {AT:#x}").split() == [f"{AT:016x}:", "0x55", "0xaa"]
        assert f"BAR6: 32 bit memory at 0x{AT:08x} [0x{AT + 8191:08x}]." in vm.hmp("info pci")
        shown = [vm.qmp("qom-get", path="/machine/peripheral/d", property=f"rom{each}") for each in ("file", "size")]
        assert shown == [str(path), 8192]
        function.config_write(4, 2, 0)
        assert vm.read(AT, 4) == switched_off
        function.config_write(4, 2, 2)
        vm.qmp("system_reset")
        vm.wait_event("RESET")
        assert function.config_read(ROM, 4) == 0
        assert vm.read(AT, 4) == switched_off


@both
def test_a_rom_hides_no_ram(name: str, tmp_path: Path) -> None:
    with machine(name, "-device", f"virtio-rng-pci,addr={SLOT},romfile={image(tmp_path)}") as vm:
        function = vm.pci(SLOT)
        vm.writel(0x10_0000, 0x1122_3344)
        function.config_write(4, 2, 2)
        function.config_write(ROM, 4, 0x10_0001)
        assert vm.readl(0x10_0000) == 0x1122_3344
        vm.writel(0x10_0000, 0x5566_7788)
        assert vm.readl(0x10_0000) == 0x5566_7788


@both
@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("romfile=/nix/nix.rom", 'failed to find romfile "/nix/nix.rom"'),
        ("romfile=nix.rom", 'failed to find romfile "nix.rom"'),
        ("romfile={empty}", 'romfile "{empty}" is empty'),
        ("romfile={rom},romsize=3000", "ROM size 3000 is not a power of two"),
        ("romfile={rom},romsize=4096", 'romfile "{rom}" (5000 bytes) is too large for ROM size 4096'),
    ],
)
def test_wrong_roms_are_refused(name: str, given: str, sentence: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty.rom"
    empty.touch()
    names = {"rom": image(tmp_path), "empty": empty}
    assert sentence.format(**names) in refused(name, "-device", f"virtio-rng-pci,{given.format(**names)}")


@both
def test_a_rom_comes_with_a_device_that_is_plugged_later(name: str, tmp_path: Path) -> None:
    path = image(tmp_path)
    with machine(name) as vm:
        for wrong, sentence in (
            ({"rombar": 0, "romfile": str(path)}, "Hot-plugged device without ROM bar can't have an option ROM"),
            ({"romfile": "nix.rom"}, 'failed to find romfile "nix.rom"'),
        ):
            arguments: dict[str, Any] = {"driver": "virtio-rng-pci", "id": "d", "addr": str(SLOT), **wrong}
            with pytest.raises(QmpFailure) as caught:
                vm.qmp("device_add", **arguments)
            assert caught.value.desc.partition("; ")[0] == sentence
            assert not vm.pci(SLOT).exists
        vm.qmp("device_add", driver="virtio-rng-pci", id="d", addr=str(SLOT), romfile=str(path))
        function = vm.pci(SLOT)
        function.config_write(4, 2, 2)
        function.config_write(ROM, 4, AT | 1)
        assert vm.read(AT, 5000) == path.read_bytes()


@both
@pytest.mark.parametrize(
    ("args", "files", "order"),
    [
        (("-device", "virtio-rng-pci,rombar=0,romfile={a}"), ["a.rom"], ""),
        (("-option-rom", "{a},bootindex=3", "-option-rom", "{b}"), ["a.rom", "b.rom"], "/rom@genroms/a.rom"),
        (("-option-rom", "romfile={b}", "-device", "virtio-rng-pci,rombar=0,romfile={a}"), ["a.rom", "b.rom"], ""),
        (("-option-rom", "{tmp}/nix.rom,bootindex=1"), [], ""),
        (
            (
                "-device", "virtio-net-pci,addr=3,bootindex=7,romfile=",
                "-device", "virtio-net-pci,addr=5,bootindex=1,romfile=", "-option-rom", "{a},bootindex=2",
            ),
            ["a.rom"],
            "/pci@i0cf8/ethernet@5/ethernet-phy@0\n/rom@genroms/a.rom\n/pci@i0cf8/ethernet@3/ethernet-phy@0",
        ),
    ],
)  # fmt: skip
def test_what_firmware_is_told(name: str, args: Sequence[str], files: list[str], order: str, tmp_path: Path) -> None:
    names = {"a": image(tmp_path, "a.rom"), "b": image(tmp_path, "b.rom", 3000), "tmp": tmp_path}
    with machine(name, *(each.format(**names) for each in args)) as vm:
        found = firmware_files(vm)
        text = f"{order}\0".encode() if order else b""
        assert found.pop("bootorder") == text[:64] + len(text).to_bytes(4, "big")
        assert found == {
            f"genroms/{each}": (tmp_path / each).read_bytes()[:64] + (tmp_path / each).stat().st_size.to_bytes(4, "big")
            for each in files
        }
    assert ("Could not open option rom" in vm.stderr) == (not files)


@both
def test_two_files_of_one_name_are_refused(name: str, tmp_path: Path) -> None:
    path = image(tmp_path)
    args = ("-option-rom", str(path), "-device", f"virtio-rng-pci,rombar=0,romfile={path}")
    assert "duplicate fw_cfg file name: genroms/x.rom" in refused(name, *args)


@both
def test_boot_from_the_network_is_in_cmos(name: str) -> None:
    def cmos(vm: Qtest, index: int) -> int:
        vm.outb(0x70, index)
        return vm.inb(0x71)

    with machine(name, "-boot", "dnc") as vm:
        assert (cmos(vm, 0x3D), cmos(vm, 0x38)) == (0x43, 0x20)


@both
@needs_ipxe
@pytest.mark.parametrize(
    ("device", "device_id"),
    [
        ("virtio-net-pci", 0x1000),
        ("virtio-net-pci-non-transitional", 0x1041),
        ("virtio-net-pci,disable-legacy=on", 0x1041),
    ],
)
def test_the_network_cards_own_rom_fits_it(name: str, device: str, device_id: int) -> None:
    """The ids are the card's, and the sum of the first image is still 0: firmware looks at both."""
    kind, _, more = device.partition(",")
    with machine(name, "-device", f"{kind},addr={SLOT},id=d{',' + more if more else ''}") as vm:
        function = vm.pci(SLOT)
        function.config_write(4, 2, 2)
        function.config_write(ROM, 4, AT | 1)
        header = vm.read(AT, 0x100)
        assert header[:2] == b"\x55\xaa"
        at = int.from_bytes(header[0x18:0x1A], "little")
        assert struct.unpack_from("<4sHH", header, at) == (b"PCIR", 0x1AF4, device_id)
        assert sum(vm.b64read(AT, header[2] * 512)) & 0xFF == 0
        assert vm.qmp("qom-get", path="/machine/peripheral/d", property="romfile") == "efi-virtio.rom"
        assert vm.qmp("qom-get", path="/machine/peripheral/d", property="romsize") == 262144
