# SPDX-License-Identifier: Apache-2.0
"""Guest scenarios: boot a real guest under one emulator, drive it, and return what it printed and what it cost.

Every scenario takes an `Emulator` and passes it the same options whatever it is. Output is compared between
emulators, so parts that differ from run to run are removed here; `SCENARIOS` lists all by name.

The KVM of some hosts emulates CPL 0 in software; the CPU models leave out what such a KVM cannot run, and the time
limits allow for about a million instructions a second.
"""

from __future__ import annotations

import calendar
import re
import shutil
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.framework import guests, images
from tests.framework.serial import strip_terminal
from tests.framework.vm import Emulator, Vm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CPU_MODEL = "qemu64,-cx16,-pni,-xsave"
LINUX_CPU_MODEL = f"{CPU_MODEL},-smap,-smep,-umip,-fsgsbase,-popcnt,-abm,-sse4a,-erms,-invpcid,-pcid,-svm"
LINUX_COMMAND_LINE = (
    "console=ttyS0 panic=-1 noxsave clearcpuid=smap,smep,umip,fsgsbase,popcnt,abm,erms,fsrm,invpcid,pcid "
    "mitigations=off tsc=reliable no_timer_check rodata=off acpi=noirq quiet"
)
FIRMWARE_TIMEOUT_S = 180.0
COMMAND_TIMEOUT_S = 60.0
LINUX_TIMEOUT_S = 800.0  # a minute or so on a machine that has nothing else to do
LINUX_COMMAND_TIMEOUT_S = 300.0
GRUB_PROMPT = r"[\r\n]grub> +\x1b\[\d+;7H"
UBOOT_PROMPT = r"\n=> "
LINUX_PROMPT = r"^/ # "
UBOOT_CRC32 = "crc32 1000000 ${filesize}"
UBOOT_COMMANDS = (
    "virtio scan",
    "virtio info",
    "part list virtio 0",
    "fatls virtio 0:1",
    f"fatload virtio 0:1 1000000 {guests.PAYLOAD_NAME}",
    UBOOT_CRC32,
    "virtio write 1000000 10 8",
    "fatwrite virtio 0:1 1000000 copy.bin ${filesize}",
    "pci regions",
    "pci",
    "bdinfo",
    "iod.b 3f8 8",
)
UBOOT_WRITE_SECTOR, UBOOT_WRITE_SECTORS = 0x10, 8
KEYBOARD_NAME, MOUSE_NAME = "AT Translated Set 2 keyboard", "ImExPS/2 Generic Explorer Mouse"
EVDEV_BYTES, EVDEV_TIME_BYTES = 24, 16  # struct input_event: time, then type, code, value
MOUSE_EVENTS = [
    {"type": "btn", "data": {"button": "right", "down": True}},
    {"type": "btn", "data": {"button": "wheel-up", "down": True}},
    {"type": "rel", "data": {"axis": "x", "value": 40}},
    {"type": "rel", "data": {"axis": "y", "value": -7}},
]
LINUX_COPY_BLOCK, LINUX_COPY_BLOCKS, LINUX_BLOCK_BYTES = 128, 16, 4096

# What two runs of one emulator print differently, and where firmware tells addresses that follow from table sizes.
RUN_DEPENDENT = (
    (re.compile(r"in \d+ ms \([^)]*\)"), "in N ms"),
    (re.compile(r"\b(tsc|khz)=\d+"), r"\1=N"),
    (re.compile(r"(?<=uptime )[\d.]+"), "N"),
    (re.compile(r"^(kvmclock: stable tsc|CPU Mhz).*$", re.MULTILINE), r"\1"),
    (re.compile(r"^(Copying \w+|table\(\w+\)|ACPI: parse DSDT|Relocating init).*$", re.MULTILINE), r"\1"),
    (re.compile(r"^(Returned) \d+ (bytes of ZoneHigh)$", re.MULTILINE), r"\1 N \2"),
    (re.compile(r"^(drive) 0x[0-9a-f]{8}:", re.MULTILINE), r"\1 N:"),
)
# LIMIT: lines about a part of QEMU's machine that vmmd does not have, QEMU's own option ROM kvmvapic.bin: SeaBIOS takes
# it for a bootable hard disk, so that without any disk it tries «Hard Disk» before «Floppy». And lines of SeaBIOS's
# threads, which come in any order.
DECLARED_DIFFERENCES = re.compile(
    r"^(ATA controller \d at |.*kvmvapic|Running option rom at c000:|"
    r"Space available for UMB|PS2 keyboard initialized|All threads complete).*\n"
    r"|^Booting from (Floppy|Hard Disk)\.\.\.\nBoot failed: .*\n\nenter handle_18:\n  NULL\n",
    re.MULTILINE,
)


@dataclass
class GuestRun:
    """One run of a scenario: `outputs` by step, CPU and wall seconds since the start by milestone, and the ending."""

    guest: str
    emulator: str
    outputs: dict[str, str] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)
    wall_s: dict[str, float] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    status: int | None = None
    checks: dict[str, bool] = field(default_factory=dict)

    def mark(self, vm: Vm, milestone: str) -> None:
        """Note the time of *milestone*."""
        self.cpu_s[milestone] = vm.cpu_seconds()
        self.wall_s[milestone] = vm.elapsed_s

    def end(self, vm: Vm, timeout_s: float) -> None:
        """Wait for the emulator's own end and keep status and events."""
        self.status = vm.wait_exit(timeout_s)
        self.events = list(vm.qmp.events)

    def shutdown_data(self) -> dict[str, Any]:
        """The data of the only SHUTDOWN event."""
        (event,) = [event for event in self.events if event["event"] == "SHUTDOWN"]
        return dict(event["data"])


def comparable(text: str) -> str:
    """*text* without what differs between runs and between machines by declaration."""
    for pattern, replacement in RUN_DEPENDENT:
        text = pattern.sub(replacement, text)
    return DECLARED_DIFFERENCES.sub("", text).strip()


def machine_args(memory_mib: int, machine: str = "pc", cpu: str = CPU_MODEL) -> list[str]:
    """The options common to all guests."""
    machine_options = ["-machine", machine, "-accel", "kvm", "-cpu", cpu, "-m", str(memory_mib)]
    return ["-nodefaults", *machine_options, "-vga", "none", "-no-reboot"]


def disk_args(path: Path, properties: str = "") -> list[str]:
    """A raw image as the first virtio disk, bootable."""
    device = f"virtio-blk-pci,drive=disk0,id=virtio-disk0,bootindex=1{properties}"
    return ["-drive", f"file={path},if=none,id=disk0,format=raw", "-device", device]


def seabios(program: Emulator) -> GuestRun:
    """SeaBIOS without anything to boot, watched on the debug console."""
    run = GuestRun("seabios", program.name)
    with Vm(program, machine_args(128), serial=False, debugcon=True) as vm:
        vm.debugcon.expect(r"SeaBIOS \(version .*\n", FIRMWARE_TIMEOUT_S)
        run.mark(vm, "first line")
        vm.debugcon.expect(r"No bootable device\.\n", FIRMWARE_TIMEOUT_S)
        run.mark(vm, "no bootable device")
        run.outputs["firmware"] = comparable(vm.debugcon.text)
    return run


def ipxe_banner(program: Emulator) -> GuestRun:
    """SeaBIOS runs the option ROM of a virtio network card (Debian's ipxe-qemu) and boots from it; its text comes on
    COM1. iPXE goes no further on a software KVM."""
    run = GuestRun("ipxe-banner", program.name)
    args = [*machine_args(64, "pc,graphics=off"), "-device", "virtio-net-pci,bootindex=0"]
    with Vm(program, args) as vm:
        vm.serial.expect(r"iPXE \(http://ipxe\.org\)", FIRMWARE_TIMEOUT_S)
        run.mark(vm, "banner")
        vm.serial.expect(r"iPXE \(PCI 00:0.\.0\) starting execution", FIRMWARE_TIMEOUT_S)
        run.mark(vm, "boot")
        text = comparable(strip_terminal(vm.serial.text)).partition(" execution")[0]
        run.outputs["serial"] = re.sub(r"PMM\+[0-9A-F]+\+[0-9A-F]+", "PMM", text)  # where firmware had room
    return run


def bootsector(program: Emulator, properties: str = "", guest: str = "bootsector") -> GuestRun:
    """A boot sector on a virtio disk, which must be read by the firmware; *properties* select the virtio mode."""
    run = GuestRun(guest, program.name)
    disk = guests.bootsector_disk()
    vm = Vm(program, machine_args(64), debugcon=True)
    vm.argv += disk_args(disk.copy_to(vm.directory), properties)
    with vm:
        vm.serial.expect(guests.BOOTSECTOR_TEXT, FIRMWARE_TIMEOUT_S)
        run.mark(vm, "boot sector")
        vm.debugcon.expect(r"Booting from 0000:7c00\n", FIRMWARE_TIMEOUT_S)
        run.outputs["firmware"] = comparable(vm.debugcon.text)
    return run


def boot_menu(program: Emulator) -> GuestRun:
    """SeaBIOS's boot menu by keyboard: Esc brings it up, a digit boots the second of two disks."""
    run = GuestRun("boot-menu", program.name)
    vm = Vm(program, [*machine_args(64), "-boot", "menu=on,splash-time=10000"], debugcon=True)
    chosen = "@CHOSEN\n"
    for number, disk in enumerate((guests.bootsector_disk(), guests.bootsector_disk(chosen))):
        path = vm.directory / f"{number}.img"
        shutil.copyfile(disk.path, path)
        vm.argv += ["-drive", f"file={path},if=none,id=disk{number},format=raw"]
        vm.argv += ["-device", f"virtio-blk-pci,drive=disk{number},id=virtio-disk{number},bootindex={number}"]
    with vm:
        vm.debugcon.expect(r"Press ESC for boot menu\.\n", FIRMWARE_TIMEOUT_S)
        run.mark(vm, "waits for a key")
        vm.qmp.cmd("send-key", keys=[{"type": "qcode", "data": "esc"}])
        vm.debugcon.expect(r"Select boot device:\n", COMMAND_TIMEOUT_S)
        run.outputs["menu"] = vm.debugcon.expect(r"1\. Virtio disk .*\n2\. Virtio disk .*\n", COMMAND_TIMEOUT_S)[0]
        vm.qmp.hmp("sendkey 2")
        vm.serial.expect(chosen, FIRMWARE_TIMEOUT_S)
        run.mark(vm, "boot sector")
        run.outputs["serial"] = vm.serial.text
    return run


def small_firmware(program: Emulator) -> GuestRun:
    """A 64 KiB image given by `-bios`: entered at the reset vector, it prints `R` on COM1 and halts."""
    run = GuestRun("small-firmware", program.name)
    with Vm(program, [*machine_args(64), "-bios", str(guests.bench().firmware)]) as vm:
        vm.serial.expect("R\n", FIRMWARE_TIMEOUT_S)
        run.mark(vm, "first instruction")
    return run


def acpi_bootsector(program: Emulator) -> GuestRun:
    """The boot sector that answers the ACPI power button."""
    run = GuestRun("acpi-bootsector", program.name)
    vm = Vm(program, machine_args(64))
    vm.argv += disk_args(guests.acpi_bootsector_disk().copy_to(vm.directory))
    with vm:
        vm.serial.expect("VMMD-TEST-GUEST up", FIRMWARE_TIMEOUT_S)
        run.mark(vm, "boot sector")
        vm.qmp.cmd("system_powerdown")
        run.end(vm, COMMAND_TIMEOUT_S)
    return run


def grub_legacy(program: Emulator) -> GuestRun:
    """GRUB Legacy over the serial port: menu, command line, disk geometry, memory map, reboot."""
    run = GuestRun("grub-legacy", program.name)
    vm = Vm(program, machine_args(64, "pc,graphics=off"))
    vm.argv += disk_args(guests.grub_legacy_disk().copy_to(vm.directory))
    with vm:
        vm.serial.expect("vmmd test entry", FIRMWARE_TIMEOUT_S)
        run.mark(vm, "menu")
        vm.serial.send("c")
        vm.serial.expect(GRUB_PROMPT, COMMAND_TIMEOUT_S)
        for command in ("geometry (hd0)", "displaymem"):
            vm.serial.send(f"{command}\r")
            run.outputs[command] = comparable(vm.serial.expect_until(GRUB_PROMPT, COMMAND_TIMEOUT_S))
        run.mark(vm, "commands")
        vm.serial.send("reboot\r")
        run.end(vm, COMMAND_TIMEOUT_S)
    return run


def uboot(program: Emulator) -> GuestRun:
    """U-Boot as firmware: read a file from the virtio disk, write sectors and a file to it."""
    run = GuestRun("uboot", program.name)
    artefacts = guests.uboot()
    vm = Vm(program, [*machine_args(128, "pc,pit=off"), "-bios", str(artefacts.rom)])
    image = artefacts.disk.copy_to(vm.directory)
    vm.argv += disk_args(image)
    with vm:
        vm.serial.expect("Hit any key", FIRMWARE_TIMEOUT_S)
        run.mark(vm, "countdown")
        vm.serial.send(" ")
        vm.serial.expect(UBOOT_PROMPT, COMMAND_TIMEOUT_S)
        for command in UBOOT_COMMANDS:
            vm.serial.send(f"{command}\r")
            run.outputs[command] = comparable(vm.serial.expect_until(UBOOT_PROMPT, COMMAND_TIMEOUT_S))
        run.mark(vm, "commands")
        vm.serial.send("reset\r")
        run.end(vm, COMMAND_TIMEOUT_S)
        payload, written = artefacts.disk.payload, image.read_bytes()
        sectors, start = UBOOT_WRITE_SECTORS * images.SECTOR_BYTES, UBOOT_WRITE_SECTOR * images.SECTOR_BYTES
        run.checks = {
            "checksum of the file read": run.outputs[UBOOT_CRC32].endswith(f"==> {artefacts.disk.payload_crc32}"),
            "sectors written": written[start : start + sectors] == payload[:sectors],
            "file written": images.get_file(image, "copy.bin", vm.directory) == payload,
            "file read is undamaged": images.get_file(image, guests.PAYLOAD_NAME, vm.directory) == payload,
        }
    return run


def syslinux(program: Emulator) -> GuestRun:
    """SYSLINUX over the serial port: its prompt and three modules, which report CPUID, files and memory map."""
    run = GuestRun("syslinux", program.name)
    vm = Vm(program, machine_args(64, "pc,pit=off"))
    vm.argv += disk_args(guests.syslinux_disk().copy_to(vm.directory))
    with vm:
        vm.serial.expect("boot: ", FIRMWARE_TIMEOUT_S)
        run.mark(vm, "prompt")
        for command in ("cpuid.c32 1", "ls.c32", "meminfo.c32"):
            vm.serial.send(f"{command}\r")
            run.outputs[command] = comparable(vm.serial.expect_until(r"boot: ", COMMAND_TIMEOUT_S))
        run.mark(vm, "commands")
    return run


def bench_kernel(program: Emulator, *, pvh: bool) -> GuestRun:
    """The benchmark guest by `-kernel`: its first act is a letter on COM1, then it works natively at CPL 3."""
    run = GuestRun("bench-pvh" if pvh else "bench-multiboot", program.name)
    image = guests.bench().pvh if pvh else guests.bench().multiboot
    with Vm(program, [*machine_args(64), "-kernel", str(image), "-append", "pin 1000 0x80"]) as vm:
        vm.serial.expect("B", FIRMWARE_TIMEOUT_S)
        run.mark(vm, "first instruction")
        run.outputs["guest"] = comparable(vm.serial.expect_until("@DONE", FIRMWARE_TIMEOUT_S))
        run.mark(vm, "done")
    return run


def linux_args(kernel: Path, initramfs: Path, extra: str = "", memory_mib: int = 64) -> list[str]:
    """Linux by `-kernel`; *extra* is appended to its command line."""
    command_line = f"{LINUX_COMMAND_LINE} {extra}".strip()
    boot = ["-kernel", str(kernel), "-initrd", str(initramfs), "-append", command_line]
    return [*machine_args(memory_mib, cpu=LINUX_CPU_MODEL), *boot]


def linux_min(program: Emulator, *, bzimage: bool = False) -> GuestRun:
    """Linux with an initramfs that reports, forks a little and powers off by itself."""
    run = GuestRun("linux-bzimage" if bzimage else "linux-min", program.name)
    linux = guests.linux()
    kernel = linux.bzimage if bzimage else linux.vmlinux
    with Vm(program, linux_args(kernel, linux.initramfs["min"])) as vm:
        vm.serial.expect("INIT: busybox shell runs", LINUX_TIMEOUT_S)
        run.mark(vm, "shell")
        run.outputs["init"] = comparable(vm.serial.expect_until("reboot: Power down", LINUX_TIMEOUT_S))
        run.end(vm, COMMAND_TIMEOUT_S)
    return run


def linux_devices(program: Emulator) -> GuestRun:
    """Linux with a virtio disk: checksum, interrupts, a copy written by its shell, and the power button."""
    run = GuestRun("linux-devices", program.name)
    linux = guests.linux()
    vm = Vm(program, linux_args(linux.vmlinux, linux.initramfs["devices"], "shell"))
    image = linux.disk.copy_to(vm.directory)
    vm.argv += disk_args(image)
    with vm:
        vm.serial.expect("INIT: busybox shell runs", LINUX_TIMEOUT_S)
        run.mark(vm, "shell")
        run.outputs["devices"] = vm.serial.expect_until("INIT: done", LINUX_TIMEOUT_S)
        vm.serial.expect(LINUX_PROMPT, COMMAND_TIMEOUT_S)
        where = f"bs={LINUX_BLOCK_BYTES} count={LINUX_COPY_BLOCKS} seek={LINUX_COPY_BLOCK}"
        vm.serial.send(f"dd if=/dev/vda of=/dev/vda {where} conv=fsync && echo copy''-done\n")
        vm.serial.expect("copy-done", COMMAND_TIMEOUT_S)
        run.mark(vm, "disk written")
        vm.serial.expect(LINUX_PROMPT, COMMAND_TIMEOUT_S)
        # Opened before the button is pressed, so that the event is queued however slowly `head` starts.
        vm.serial.send("exec 3</dev/input/event0; echo wait''ing; head -c 24 <&3 >/dev/null && poweroff -f\n")
        vm.serial.expect("waiting", COMMAND_TIMEOUT_S)
        vm.qmp.cmd("system_powerdown")
        run.end(vm, COMMAND_TIMEOUT_S)
        size, start = LINUX_COPY_BLOCKS * LINUX_BLOCK_BYTES, LINUX_COPY_BLOCK * LINUX_BLOCK_BYTES
        original = linux.disk.path.read_bytes()
        expected = original[:start] + original[:size] + original[start + size :]
        run.checks = {
            "checksum of the disk": linux.disk_md5 in run.outputs["devices"],
            "blocks written": image.read_bytes() == expected,
        }
    return run


class LinuxShell:
    """The shell on the serial port of a Linux that was started with ``shell`` on its command line."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        vm.serial.expect("INIT: done", LINUX_TIMEOUT_S)
        vm.serial.expect(LINUX_PROMPT, LINUX_COMMAND_TIMEOUT_S)

    def run(self, command: str, timeout_s: float = LINUX_COMMAND_TIMEOUT_S) -> str:
        """What *command* prints, behind its echo."""
        self.vm.serial.send(f"{command}\n")
        return self.vm.serial.expect_until(LINUX_PROMPT, timeout_s)

    def input_events(self, node: str, count: int, cause: Callable[[], object]) -> str:
        """The next *count* events of /dev/input/*node*, read when *cause* has been called: type, code, value."""
        # opened before the cause, so that they are queued however slowly `head` starts
        read = f'head -c {count * EVDEV_BYTES} <&3 | hexdump -v -e \'{EVDEV_BYTES}/1 "%02x" "\\n"\''
        self.vm.serial.send(f"exec 3</dev/input/{node}; echo wait''ing; {read}; echo re''ad\n")
        self.vm.serial.expect("waiting", LINUX_COMMAND_TIMEOUT_S)
        cause()
        text = self.vm.serial.expect_until("read", LINUX_COMMAND_TIMEOUT_S)
        self.vm.serial.expect(LINUX_PROMPT, COMMAND_TIMEOUT_S)
        rows = re.findall(rf"^[0-9a-f]{{{2 * EVDEV_BYTES}}}$", text, re.MULTILINE)
        fields = (struct.unpack_from("<HHi", bytes.fromhex(row), EVDEV_TIME_BYTES) for row in rows)
        return "\n".join(" ".join(map(str, each)) for each in fields)


def linux_pc(program: Emulator) -> GuestRun:
    """Linux with its own drivers for what a PC has: IDE disk, CD-ROM with its media changed, RTC, PS/2 in evdev."""
    run = GuestRun("linux-pc", program.name)
    linux, disk, discs = guests.linux_full(), guests.random_disk(), [guests.random_cd(seed) for seed in (11, 12)]
    vm = Vm(program, linux_args(linux.vmlinux, linux.initramfs, "shell"))
    image = disk.copy_to(vm.directory)
    vm.argv += ["-drive", f"file={image},format=raw,if=ide", "-cdrom", str(discs[0].path)]
    with vm:
        shell = LinuxShell(vm)
        run.mark(vm, "shell")
        run.outputs["kernel"] = shell.run("dmesg | grep -E 'ata[0-9]|sd 0|sr0|sr 1|rtc'")
        _linux_ide_disk(run, shell, disk, image)
        run.mark(vm, "disk")
        _linux_cdrom(run, shell, discs)
        run.mark(vm, "CD-ROM")
        _linux_rtc(run, shell)
        _linux_input(run, shell)
        run.mark(vm, "input")
        run.outputs["interrupts"] = shell.run("cat /proc/interrupts")
        vm.serial.send("poweroff -f\n")
        run.end(vm, LINUX_COMMAND_TIMEOUT_S)
    return run


def _linux_ide_disk(run: GuestRun, shell: LinuxShell, disk: guests.DiskImage, image: Path) -> None:
    """A checksum of the disk, and blocks of it copied to another place of it."""
    checksum = shell.run("md5sum /dev/sda")
    where = f"bs={LINUX_BLOCK_BYTES} count={LINUX_COPY_BLOCKS} seek={LINUX_COPY_BLOCK}"
    shell.run(f"dd if=/dev/sda of=/dev/sda {where} conv=fsync")
    size, start = LINUX_COPY_BLOCKS * LINUX_BLOCK_BYTES, LINUX_COPY_BLOCK * LINUX_BLOCK_BYTES
    original = disk.path.read_bytes()
    run.checks |= {
        "checksum of the disk": disk.md5 in checksum,
        "blocks written": image.read_bytes() == original[:start] + original[:size] + original[start + size :],
    }


def _linux_cdrom(run: GuestRun, shell: LinuxShell, discs: list[guests.DiskImage]) -> None:
    """A CD is read, taken out by QMP, another put in and read; then the guest opens the tray itself."""
    qmp, read = shell.vm.qmp, "md5sum /dev/sr0"
    run.checks["checksum of the CD"] = discs[0].md5 in shell.run(read)
    qmp.cmd("eject", device="ide1-cd0")
    run.outputs["no medium"] = shell.run(read)
    qmp.cmd("blockdev-change-medium", device="ide1-cd0", filename=str(discs[1].path), format="raw")
    by_host = len(qmp.events)
    run.outputs["tray moved by the host"] = _tray_movements(qmp.events)
    # the drive tells of the new medium by errors, and Linux passes some of them on
    run.checks["checksum of the next CD"] = discs[1].md5 in shell.run(f"{read} || {read} || {read}")
    shell.run(f"echo 1 >/proc/sys/dev/cdrom/autoeject; {read}")
    run.outputs["tray moved by the guest"] = _tray_movements(qmp.events[by_host:])
    (drive,) = [each for each in qmp.cmd("query-block") if each["device"] == "ide1-cd0"]
    run.checks["tray is open"] = drive["tray_open"]


def _tray_movements(events: list[dict[str, Any]]) -> str:
    """What the DEVICE_TRAY_MOVED events among *events* tell."""
    moved = [event["data"]["tray-open"] for event in events if event["event"] == "DEVICE_TRAY_MOVED"]
    return ", ".join("open" if is_open else "closed" for is_open in moved)


def _linux_rtc(run: GuestRun, shell: LinuxShell) -> None:
    """The date in the RTC, between two looks at the host's clock, and an alarm two seconds later."""
    earliest_s = int(time.time())
    found = re.search(r"^\w{3} (\w{3} .*\d{4})  0\.0", shell.run("hwclock -u -r -f /dev/rtc0"), re.MULTILINE)
    assert found is not None
    date_s = calendar.timegm(time.strptime(found[1], "%b %d %H:%M:%S %Y"))
    run.checks["RTC tells the host's time"] = earliest_s - 1 <= date_s <= time.time() + 1
    alarm = "/sys/class/rtc/rtc0/wakealarm"  # empty when there is none, or none any more
    text = shell.run(f'echo +2 >{alarm} && sleep 4 && [ -z "$(cat {alarm})" ] && echo "alarm: over"')
    run.checks["RTC alarm"] = re.search(r"^alarm: over$", text, re.MULTILINE) is not None


def _linux_input(run: GuestRun, shell: LinuxShell) -> None:
    """What Linux finds at the PS/2 ports, and what reaches evdev of keys and movements sent by QMP and HMP."""
    qmp = shell.vm.qmp
    devices = run.outputs["devices"] = shell.run("cat /proc/bus/input/devices")
    for what, name, count, cause in (
        ("send-key", KEYBOARD_NAME, 6, lambda: qmp.cmd("send-key", keys=[{"type": "qcode", "data": "f5"}])),
        ("sendkey", KEYBOARD_NAME, 12, lambda: qmp.hmp("sendkey shift-a")),
        ("mouse", MOUSE_NAME, 5, lambda: qmp.cmd("input-send-event", events=MOUSE_EVENTS)),
    ):
        node = re.search(rf'N: Name="{re.escape(name)}".*?H: Handlers=[^\n]*(event\d+)', devices, re.DOTALL)
        assert node is not None, devices
        run.outputs[what] = shell.input_events(node[1], count, cause)


SCENARIOS: dict[str, Callable[[Emulator], GuestRun]] = {
    "seabios": seabios,
    "bootsector": bootsector,
    "bootsector-legacy": lambda program: bootsector(program, ",disable-modern=on", "bootsector-legacy"),
    "bootsector-modern": lambda program: bootsector(program, ",disable-legacy=on", "bootsector-modern"),
    "boot-menu": boot_menu,
    "ipxe-banner": ipxe_banner,
    "small-firmware": small_firmware,
    "acpi-bootsector": acpi_bootsector,
    "bench-multiboot": lambda program: bench_kernel(program, pvh=False),
    "bench-pvh": lambda program: bench_kernel(program, pvh=True),
    "grub-legacy": grub_legacy,
    "uboot": uboot,
    "syslinux": syslinux,
    "linux-min": linux_min,
    "linux-bzimage": lambda program: linux_min(program, bzimage=True),
    "linux-devices": linux_devices,
    "linux-pc": linux_pc,
}


def msi_interrupts(proc_interrupts: str) -> Iterator[tuple[str, int]]:
    """Name and count of every MSI-X interrupt in the text of /proc/interrupts (one CPU)."""
    for match in re.finditer(r"^ *\d+: +(\d+) +PCI-MSI \S+ +(\S+)$", proc_interrupts, re.MULTILINE):
        yield match[2], int(match[1])
