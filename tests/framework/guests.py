# SPDX-License-Identifier: Apache-2.0
"""Guest artefacts for the integration tests: firmware, boot sectors, disk images, Linux kernels and initramfs images.

Each function builds its artefact on first use, keeps it in the cache (see `cache`), and returns a frozen dataclass
with paths and with the values a guest must print. Images are templates: run a guest on `copy_to()`'s copy.
All raise MissingPackage or GuestError when something they need is not there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.framework import cache, images, iso9660
from tests.framework.images import MIB, SECTOR_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    ImageBuilder = Callable[[Path, Path], None]  # (image to write, scratch directory)

IMAGE_MIB = 16
BOOTSECTOR_TEXT = "@SECTOR\n"
BOOTSECTOR_CODE = bytes.fromhex(
    "fa 31c0 8ed8"  # cli; xor ax, ax; mov ds, ax
    "be167c baf803"  # mov si, 0x7c16 (the text behind this code); mov dx, 0x3f8
    "ac 84c0 7403 ee ebf8"  # next: lodsb; test al, al; jz halt; out dx, al; jmp next
    "f4 ebfd"  # halt: hlt; jmp halt
)
PAYLOAD_BYTES = 200_001  # odd, so that neither sector nor cluster divides it
PAYLOAD_NAME = "payload.bin"
GRUB_INSTALL_PARTITION_OFFSET = 0x208  # in stage2: `install_partition`
GRUB_FIRST_PARTITION = 0x0000FFFF  # partition 0, no BSD slice
LINUX_BUILD_TOOLS = (("gcc", "gcc"), ("make", "make"), ("flex", "flex"), ("bison", "bison"), ("bc", "bc"))
LINUX_BUILD_HEADERS = (("libelf-dev", "usr/include/libelf.h"), ("busybox-static", "bin/busybox"))
KERNEL_ARCHIVE = "usr/src/linux-source-6.1.tar.xz"


@dataclass(frozen=True)
class DiskImage:
    """A raw disk image; `payload` is the file PAYLOAD_NAME in its FAT partition (empty: there is none)."""

    path: Path
    payload: bytes = field(default=b"", repr=False)

    @property
    def payload_crc32(self) -> str:
        """CRC-32 of the payload as eight hexadecimal digits."""
        return f"{zlib.crc32(self.payload):08x}"

    @property
    def md5(self) -> str:
        """MD5 of the whole image, as md5sum prints it."""
        return hashlib.md5(self.path.read_bytes(), usedforsecurity=False).hexdigest()

    def copy_to(self, directory: Path) -> Path:
        """A private, writable copy in *directory*."""
        target = directory / self.path.name
        shutil.copyfile(self.path, target)
        return target


@dataclass(frozen=True)
class UBoot:
    """U-Boot as firmware, and a disk for it."""

    rom: Path
    disk: DiskImage


@dataclass(frozen=True)
class Bench:
    """The benchmark guest: multiboot and PVH ELF images, and a 64 KiB firmware that prints `R` and halts."""

    multiboot: Path
    pvh: Path
    firmware: Path


@dataclass(frozen=True)
class Linux:
    """A Linux kernel (ELF with PVH note, and bzImage) with initramfs images, and a disk of random bytes for it."""

    vmlinux: Path
    bzimage: Path
    initramfs: dict[str, Path]
    disk: DiskImage
    disk_md5: str  # of the first 256 KiB, which the `devices` initramfs reads


@dataclass(frozen=True)
class FullLinux:
    """A Linux kernel with many drivers, and an initramfs: ``shell`` on its command line gives a prompt."""

    vmlinux: Path
    initramfs: Path


def bench() -> Bench:
    """The guest of shared/bench, built with gcc and make."""
    source = cache.shared_folder() / "bench" / "guest"

    def build(directory: Path) -> None:
        for tool in ("gcc", "make"):
            cache.program(tool, tool)
        for path in source.iterdir():
            shutil.copyfile(path, directory / path.name)
        cache.run(["make", "-C", directory])

    made = cache.built(f"bench-{cache.hash_of_folder(source)}", build)
    return Bench(made / "bench.elf", made / "bench-pvh.elf", made / "tinybios.bin")


#: where the benchmark guest gets one more command, and what it says: port writes, how many took longer than 2, 4, 8 and
#: 16 ms, and the time (TSC ticks) above 2 ms of all of them
_GAPS_ANCHOR = '} else if (eq(c, "mmio") || eq(c, "mmioa")) {'
_GAPS = """} else if (eq(c, "gaps")) {
    u64 v = num(&ms), d, worst = 0, late = 0, over[4] = {0}; u16 port = num(0);
    start_mark(nm); lim_go(&l, v, ms); t = rdtsc();
    while (!lim_over(&l, n)) {
        d = rdtsc(); outb(port, ' '); d = rdtsc() - d; n++;
        if (d > worst) worst = d;
        if (d > tsc_khz * 2) late += d - tsc_khz * 2;
        for (int i = 0; i < 4 && d > (tsc_khz * 2) << i; i++) over[i]++;
    }
    t = rdtsc() - t; end_mark(nm, n, t); kv("worst", worst); kv("late", late);
    kv("over2ms", over[0]); kv("over4ms", over[1]); kv("over8ms", over[2]); kv("over16ms", over[3]); fin();
"""


def gaps() -> Path:
    """The benchmark guest (multiboot) with the command `gaps Nms PORT`: the longest port write, and how many took
    more than 2, 4, 8 and 16 ms."""
    source = cache.shared_folder() / "bench" / "guest"
    text = (source / "main.c").read_text()
    if text.count(_GAPS_ANCHOR) != 1:
        raise AssertionError("the benchmark guest's source has changed: _GAPS_ANCHOR")

    def build(directory: Path) -> None:
        for path in source.iterdir():
            shutil.copyfile(path, directory / path.name)
        (directory / "main.c").unlink()
        (directory / "main.c").write_text(text.replace(_GAPS_ANCHOR, _GAPS + _GAPS_ANCHOR))
        cache.run(["make", "-C", directory, "bench.elf"])

    tag = hashlib.sha256(_GAPS.encode()).hexdigest()[:8]
    return cache.built(f"gaps-{cache.hash_of_folder(source)}-{tag}", build) / "bench.elf"


def bootsector_disk(text: str = BOOTSECTOR_TEXT) -> DiskImage:
    """A 1 MiB disk whose boot sector prints *text* on COM1 and halts."""
    sector = (BOOTSECTOR_CODE + text.encode() + b"\0").ljust(SECTOR_BYTES - 2, b"\0") + b"\x55\xaa"
    return _bootsector_disk("bootsector", sector)


def acpi_bootsector_disk() -> DiskImage:
    """A 1 MiB disk with the boot sector that answers the ACPI power button and eject requests."""
    source = cache.shared_folder() / "guests" / "acpi-ack-bootsector.S"

    def build(directory: Path) -> None:
        cache.run([cache.program("gcc", "gcc"), "-c", "-m32", source, "-o", directory / "guest.o"])
        link = ["-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-o", str(directory / "bootsector.bin")]
        cache.run([cache.program("binutils", "ld"), *link, str(directory / "guest.o")])

    made = cache.built(f"acpi-bootsector-{cache.hash_of_files([source], source.parent)}", build)
    return _bootsector_disk("acpi-bootsector", (made / "bootsector.bin").read_bytes())


def grub_legacy_disk() -> DiskImage:
    """A disk that boots GRUB Legacy with a menu on the serial port."""
    folder = "usr/lib/grub/x86_64-pc"
    stage1 = cache.package_file("grub-legacy", f"{folder}/stage1").read_bytes()
    stage2 = bytearray(cache.package_file("grub-legacy", f"{folder}/stage2").read_bytes())
    menu = (
        "serial --unit=0 --speed=115200\nterminal --timeout=0 serial\ntimeout 60\ndefault 0\n"
        "title vmmd test entry\nroot (hd0,0)\nkernel /nothing\n"
    )

    def build(path: Path, scratch: Path) -> None:
        struct.pack_into("<I", stage2, GRUB_INSTALL_PARTITION_OFFSET, GRUB_FIRST_PARTITION)
        images.partitioned_fat(path, IMAGE_MIB, stage1[: images.BOOT_CODE_BYTES])
        with path.open("r+b") as image:  # stage1 loads its sector 1, whose block list finds the rest behind it
            image.seek(SECTOR_BYTES)
            image.write(stage2)
        images.put_files(path, {"boot/grub/menu.lst": menu.encode()}, scratch)

    return DiskImage(_image("grub-legacy", build, stage1, bytes(stage2), menu.encode()))


def uboot() -> UBoot:
    """U-Boot's ROM and a disk with PAYLOAD_NAME."""
    rom = cache.package_file("u-boot-qemu", "usr/lib/u-boot/qemu-x86/u-boot.rom")
    return UBoot(rom, fat_disk())


def fat_disk() -> DiskImage:
    """A disk with nothing to boot and PAYLOAD_NAME in its FAT partition."""
    payload = images.random_bytes(2, PAYLOAD_BYTES)

    def build(path: Path, scratch: Path) -> None:
        images.partitioned_fat(path, IMAGE_MIB)
        images.put_files(path, {PAYLOAD_NAME: payload}, scratch)

    return DiskImage(_image("fat", build, payload), payload)


def syslinux_disk() -> DiskImage:
    """A disk that boots SYSLINUX to its prompt on the serial port, with some .c32 modules."""
    mbr = cache.package_file("syslinux-common", "usr/lib/syslinux/mbr/mbr.bin").read_bytes()
    modules = "usr/lib/syslinux/modules/bios"
    names = ("libcom32.c32", "libutil.c32", "libgpl.c32", "cpuid.c32", "ls.c32", "meminfo.c32")
    files = {name: cache.package_file("syslinux-common", f"{modules}/{name}").read_bytes() for name in names}
    files["syslinux.cfg"] = b"SERIAL 0 115200\nPROMPT 1\nTIMEOUT 0\nDEFAULT none\nLABEL none\n  KERNEL none\n"

    def build(path: Path, scratch: Path) -> None:
        images.partitioned_fat(path, IMAGE_MIB, mbr)
        installer = cache.program("syslinux", "syslinux")
        search = f"{cache.program('mtools', 'mcopy').parent}:/usr/bin:/bin"
        environment = {"PATH": search, "SOURCE_DATE_EPOCH": images.FIXED_TIME, "TZ": "UTC", "TMPDIR": str(scratch)}
        cache.run([installer, "--offset", str(images.PARTITION_OFFSET), "--install", path], env=environment)
        images.put_files(path, files, scratch)

    return DiskImage(_image("syslinux", build, mbr, *files.values()))


def linux() -> Linux:
    """Linux 6.1 from Debian's source, built by shared/guests/linux/build.sh (3 minutes on two cores)."""
    source = cache.shared_folder() / "guests" / "linux"
    made = cache.built(f"linux-{cache.hash_of_folder(source)}", _build_linux)
    initramfs = {kind: made / f"{kind}.cpio" for kind in ("min", "devices", "hotplug")}
    disk = random_disk()
    md5 = hashlib.md5(disk.path.read_bytes()[: 256 * 1024], usedforsecurity=False).hexdigest()
    return Linux(made / "vmlinux-small", made / "bzImage-small", initramfs, disk, md5)


def linux_full() -> FullLinux:
    """The same with Linux's own drivers for what a PC has: PS/2, IDE, USB, RTC, watchdog (6 minutes on two cores)."""
    source = cache.shared_folder() / "guests" / "linux"
    made = cache.built(f"linux-full-{cache.hash_of_folder(source)}", _build_linux_full)
    return FullLinux(made / "vmlinux-full", made / "devices.cpio")


def linux_network() -> FullLinux:
    """The Linux of `linux()` with Debian's guest agent and ethtool; always a prompt on the serial port."""
    source = cache.shared_folder() / "guests" / "linux"
    kernel = cache.built(f"linux-{cache.hash_of_folder(source)}", _build_linux)
    init = Path(__file__).with_name("linux_init") / "network.sh"
    programs = [cache.program("qemu-guest-agent", "qemu-ga"), cache.program("ethtool", "ethtool")]
    cache.program("busybox-static", "busybox")

    def build(directory: Path) -> None:
        target, generator = directory / "network.cpio", kernel / "gen_init_cpio"
        cache.run([source / "mkinitramfs.sh", target, generator, init, shutil.which("busybox") or "busybox", *programs])

    inputs = cache.hash_of_files([init, source / "mkinitramfs.sh", *programs], Path("/"))
    return FullLinux(kernel / "vmlinux-small", cache.built(f"linux-network-{inputs}", build) / "network.cpio")


def random_disk() -> DiskImage:
    """A 1 MiB disk of random bytes."""
    data = images.random_bytes(3, MIB)
    return DiskImage(_image("random", lambda path, _scratch: _write(path, data), data))


def random_cd(seed: int) -> DiskImage:
    """A CD with a file of random bytes."""
    data = iso9660.image({"RANDOM.BIN": images.random_bytes(seed, MIB)})
    return DiskImage(_image("cd", lambda path, _scratch: _write(path, data), data))


def _build_linux(directory: Path) -> None:
    _run_build_script(directory, "small")
    _build_bzimage(directory)
    _remove_intermediates(directory, "small")


def _build_linux_full(directory: Path) -> None:
    _run_build_script(directory, "full")
    _remove_intermediates(directory, "full")


def _run_build_script(directory: Path, kind: str) -> None:
    for package, tool in LINUX_BUILD_TOOLS:
        cache.program(package, tool)
    for package, path in LINUX_BUILD_HEADERS:
        if not (Path("/") / path).exists():
            raise cache.MissingPackage(package, f"/{path}", "needed to build the Linux guest")
    if not (directory / "linux-source-6.1").is_dir():
        unpacking = directory / "unpacking"  # renamed when whole: build.sh uses the tree if it is there
        unpacking.mkdir(exist_ok=True)
        cache.run(["tar", "xf", cache.package_file("linux-source-6.1", KERNEL_ARCHIVE), "-C", unpacking])
        (unpacking / "linux-source-6.1").rename(directory / "linux-source-6.1")
        unpacking.rmdir()
    script = cache.shared_folder() / "guests" / "linux" / "build.sh"
    cache.run(["nice", script, directory, kind])


def _remove_intermediates(directory: Path, kind: str) -> None:
    """1.6 GB that nothing needs any more."""
    for intermediate in ("linux-source-6.1", f"out-{kind}"):
        shutil.rmtree(directory / intermediate)


def _build_bzimage(directory: Path) -> None:
    """The same kernel as bzImage, but with LZ4: unpacking XZ takes minutes where CPL 0 is emulated."""
    lz4 = cache.program("lz4", "lz4")
    stamp = {"KBUILD_BUILD_TIMESTAMP": "@0", "KBUILD_BUILD_USER": "ci", "KBUILD_BUILD_HOST": "ci"}
    environment = stamp | {"PATH": f"{os.environ['PATH']}{os.pathsep}{lz4.parent}"}
    out = directory / "out-small"
    configure = directory / "linux-source-6.1/scripts/config"
    cache.run([configure, "--file", out / ".config", "-d", "KERNEL_XZ", "-e", "KERNEL_LZ4"])
    cache.run(["make", "-C", directory / "linux-source-6.1", f"O={out}", "olddefconfig"], env=environment)
    cache.run(["nice", "make", "-C", out, "-j2", "bzImage"], env=environment)
    shutil.copyfile(out / "arch/x86/boot/bzImage", directory / "bzImage-small")


def _bootsector_disk(name: str, sector: bytes) -> DiskImage:
    assert len(sector) == SECTOR_BYTES
    return DiskImage(_image(name, lambda path, _scratch: _write(path, sector.ljust(MIB, b"\0")), sector))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _image(name: str, build: ImageBuilder, *inputs: bytes) -> Path:
    """The image *name*, cached under a hash of *inputs* and of the code that makes images."""
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in inputs))
    for source in (Path(__file__), Path(images.__file__)):
        digest.update(source.read_bytes())
    key = digest.hexdigest()[: cache.HASH_DIGITS]

    def fill(directory: Path) -> None:
        build(directory / f"{name}.img", directory)

    return cache.built(f"image-{name}-{key}", fill) / f"{name}.img"
