# SPDX-License-Identifier: Apache-2.0
"""What follows from a command line that does not say it: CPU topology, accelerator, RAM size, default devices.

Without ``-nodefaults`` QEMU adds devices that nobody asked for. vmmd adds COM1 (its output goes nowhere, as on a QEMU
without a window), an empty CD-ROM and an empty floppy drive, and says in one line which of the others this
version does not have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import UsageError
from vmmd.options.backends import ChardevNull, ChardevStdio, DriveOptions
from vmmd.options.drives import add_default_cdrom, place_drives
from vmmd.options.fields import at, shown, unknown_name
from vmmd.options.models import (
    DEFAULT_MEMORY_BYTES,
    AccelOptions,
    MachineType,
    SerialOptions,
    machine_types,
)
from vmmd.options.nics import place_nics
from vmmd.options.objects import MemoryBackend
from vmmd.options.read_machine import ACCELS, ACCELS_LATER

if TYPE_CHECKING:
    from vmmd.options.backends import ChardevOptions
    from vmmd.options.draft import Draft
    from vmmd.options.models import Config

RAM_GRANULE_BYTES = 8192  # RAM comes in multiples of this, as QEMU gives it

#: a -device of these types stands for a default device
_SERIAL_TYPES = frozenset({"isa-serial"})
_FLOPPY_TYPES = frozenset({"isa-fdc", "floppy"})
_CDROM_TYPES = frozenset({"ide-cd", "ide-hd", "scsi-cd", "scsi-hd"})
_VGA_TYPES = frozenset({"VGA", "isa-vga", "cirrus-vga", "isa-cirrus-vga", "vmware-svga", "qxl-vga", "virtio-vga"})


def complete(draft: Draft) -> None:
    """Fill in ``draft.config``. Raises UsageError when what was given leaves no consistent default."""
    config = draft.config
    machine = machine_types()[config.machine.type]
    _accelerators(config)
    _memory(config)
    resolve_smp(config, machine)
    _numa(config)
    _boot_files(config)
    if not config.nodefaults and machine.name != "none":
        _default_floppy(config)
    place_drives(config)
    place_nics(draft)
    if not config.nodefaults and machine.name != "none":
        _default_devices(draft)


def _accelerators(config: Config) -> None:
    """``-machine accel=a:b``, or ``-accel``; KVM when neither is given (QEMU would take TCG, which vmmd has not);
    machine ``none`` needs none."""
    listed = config.machine.accel
    if listed is None:
        if not config.accels and config.machine.type != "none":
            config.accels.append(AccelOptions.from_items([("accel", "kvm")], "-accel"))
        _check_any_accelerator(config, "-accel")
        return
    if config.accels:
        # QEMU-COMPAT: the phrase
        raise UsageError('The -accel and "-machine accel=" options are incompatible', "use one of them")
    for name in listed.split(":"):
        config.accels.append(AccelOptions.from_items([("accel", name)], "-machine"))
    _check_any_accelerator(config, "-machine")


def _check_any_accelerator(config: Config, option: str) -> None:
    """One of those given is known, now or later. Raises UsageError, for the first."""
    known = (*ACCELS, *ACCELS_LATER)
    if config.accels and not any(each.accel in known for each in config.accels):
        name = config.accels[0].accel
        # QEMU-COMPAT: the phrase
        raise unknown_name(at(option, "accel", name), name, ACCELS, f"invalid accelerator {shown(name)}")


def _memory(config: Config) -> None:
    memory = config.memory
    backend = next((entry for entry in config.objects if entry.id == config.machine.memory_backend), None)
    if memory.size_bytes == 0:  # QEMU-COMPAT: -m 0 means the default
        memory.size_bytes = DEFAULT_MEMORY_BYTES
    if isinstance(backend, MemoryBackend) and "size" not in memory.given:
        memory.size_bytes = backend.size_bytes
    memory.size_bytes = -(-memory.size_bytes // RAM_GRANULE_BYTES) * RAM_GRANULE_BYTES


def resolve_smp(config: Config, machine: MachineType) -> None:
    """Give every key of ``-smp`` its value. What is left out is computed; up to pc-i440fx-6.1 CPUs without topology
    become sockets, later cores."""
    smp = config.smp
    given = smp.values
    dies = given.get("dies", 1)
    fixed = dies * given.get("clusters", 1)
    wanted = given.get("maxcpus") or given.get("cpus")
    parts = {name: given.get(name) for name in ("sockets", "cores", "threads")}
    if wanted is not None:
        first = "sockets" if machine.prefers_sockets else "cores"
        second = "cores" if machine.prefers_sockets else "sockets"
        free = next((name for name in (first, second, "threads") if parts[name] is None), None)
        if free is not None:
            rest = fixed
            for name, value in parts.items():
                rest *= 1 if name == free else value or 1
            parts[free] = max(1, wanted // rest)
    for name, value in parts.items():
        given[name] = value or 1
    total = fixed * given["sockets"] * given["cores"] * given["threads"]
    maxcpus = wanted or total
    given.update(dies=dies, clusters=given.get("clusters", 1), maxcpus=maxcpus, cpus=given.get("cpus") or maxcpus)


def _numa(config: Config) -> None:
    """Nodes without a number are numbered in order."""
    for index, node in enumerate(config.numa):
        if node.nodeid is None:
            node.nodeid = index


def _boot_files(config: Config) -> None:
    """``-machine kernel=`` and the like mean the same as the options of their own."""
    machine = config.machine
    config.kernel = config.kernel or machine.kernel
    config.initrd = config.initrd or machine.initrd
    config.append = config.append if config.append is not None else machine.append
    config.bios = config.bios or machine.firmware


def _default_floppy(config: Config) -> None:
    """An empty diskette drive A."""
    if any(device.driver in _FLOPPY_TYPES for device in config.devices):
        return
    taken = any(drive.interface == "floppy" and not (drive.index or drive.unit) for drive in config.drives)
    if not taken:
        items = [("if", "floppy"), ("index", "0")]
        config.drives.append(DriveOptions.from_items(items, "default floppy"))


def _default_devices(draft: Draft) -> None:
    config = draft.config
    drivers = {device.driver for device in config.devices}
    serial_missing = "serial" not in draft.given and not drivers & _SERIAL_TYPES
    if serial_missing:
        made = _default_serial(config)
        made.option = "-nographic" if config.nographic else "default"
        config.chardevs[made.id] = made
        draft.chardev_users.append((made.option, made.id))
        config.serials.append(SerialOptions(0, made.id))
    if not drivers & _CDROM_TYPES:
        add_default_cdrom(config)
    missing = []
    if config.vga is None and config.display != "none" and not drivers & _VGA_TYPES:
        missing.append("a display adapter")
    if not draft.given & {"net", "nic", "netdev"}:
        missing.append("a network card (e1000)")
    if "parallel" not in draft.given:
        missing.append("a parallel port")
    if config.nographic and not draft.given & {"monitor", "mon", "qmp", "qmp-pretty"}:
        # without -nographic QEMU has it in its window
        missing.append("a monitor for people beside COM1 on stdio (mon:stdio)")
    if missing:
        text = ", ".join(missing)
        config.notices.append(
            f"warning: default devices not available in this version: {text} (-nodefaults asks for none)"
        )


def _default_serial(config: Config) -> ChardevOptions:
    """COM1 on standard input and output with -nographic, otherwise on nothing."""
    cls = ChardevStdio if config.nographic and not config.daemonize else ChardevNull
    id_ = "serial0" if "serial0" not in config.chardevs else "compat_serial0"  # the user's own stays the user's
    made: ChardevOptions = cls.from_items([("id", id_)], f"-serial {shown(cls.backend)}")
    return made
