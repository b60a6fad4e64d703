# SPDX-License-Identifier: Apache-2.0
"""What ``/machine`` shows in the object tree: what the board was made from. Nothing of it changes later on."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from vmmd.core.tree import Link, Property

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmmd.core.tree import ObjectTree
    from vmmd.machine.pc_i440fx import PcI440fx
    from vmmd.options.models import Config


class _Declared(NamedTuple):
    """A property of machines, by QEMU's name and type."""

    name: str
    type: str
    doc: str
    value: Callable[[Config], object]


#: of every machine
_COMMON = (
    _Declared("kernel", "string", "kernel that starts without firmware", lambda c: c.kernel or c.machine.kernel or ""),
    _Declared("initrd", "string", "its initial RAM disk", lambda c: c.initrd or c.machine.initrd or ""),
    _Declared("append", "string", "its command line", lambda c: c.append or c.machine.append or ""),
    _Declared("graphics", "bool", "firmware uses a screen", lambda c: c.machine.graphics and not c.nographic),
    _Declared("usb", "bool", "the board has a USB controller", lambda c: c.machine.usb),
    _Declared("firmware", "string", "firmware image", lambda c: c.bios or c.machine.firmware or ""),
    _Declared("dump-guest-core", "bool", "guest memory is in core dumps", lambda c: c.machine.dump_guest_core),
    _Declared("mem-merge", "bool", "the host may merge equal pages", lambda c: c.machine.mem_merge),
    _Declared("boot", "BootConfiguration", "boot order", lambda c: _boot(c)),
    _Declared("memory", "MemorySizeConfiguration", "sizes of memory", lambda c: _memory(c)),
    _Declared("smp", "SMPConfiguration", "CPU topology", lambda c: _smp(c)),
)
#: of a PC besides
_PC = (
    _Declared("acpi", "OnOffAuto", "ACPI tables", lambda c: c.machine.acpi),
    _Declared("pit", "OnOffAuto", "timer 8254", lambda c: c.machine.pit),
    _Declared("pic", "OnOffAuto", "interrupt controllers 8259", lambda c: c.machine.pic),
    _Declared("i8042", "bool", "PS/2 keyboard controller", lambda c: c.machine.i8042),
    _Declared("hpet", "bool", "high precision event timer", lambda c: c.machine.hpet),
    _Declared("vmport", "OnOffAuto", "VMware I/O port; not available in this version", lambda c: "off"),
    _Declared("smm", "OnOffAuto", "system management mode; not available in this version", lambda c: "off"),
)
_LINKS = (("memory-backend", "link<memory-backend>", "the memory that is the RAM"),)


def machine_properties(machine_type: str) -> Iterator[tuple[str, str, str]]:
    """(name, type, description) of the properties of a machine type, without values."""
    for each in (*_COMMON, *(() if machine_type == "none" else _PC)):
        yield each.name, each.type, each.doc
    yield from _LINKS


def describe_machine(tree: ObjectTree, config: Config) -> None:
    """Give ``/machine`` its type and the properties that follow from the command line."""
    kind = config.machine.type
    tree.machine.type_name = f"{kind}-machine"

    def describe() -> Iterator[Property | Link]:
        for each in (*_COMMON, *(() if kind == "none" else _PC)):
            yield Property(each.name, each.type, partial(each.value, config), None, each.doc)
        for name, word, doc in _LINKS:
            yield Link(name, word, lambda: tree.objects.children.get(_backend(config)), None, doc)

    tree.machine.extend(describe)


def describe_board(board: PcI440fx) -> None:
    """Properties of ``/machine`` that lead to parts of the board."""
    tree = board.tree
    clock, power = tree.resolve(board.rtc.qom_path), tree.resolve(board.pm.qom_path)
    tree.machine.extend(
        lambda: (
            Link("rtc_state", "link<isa-device>", lambda: clock, None, "the clock"),
            Property("rtc-time", "struct tm", lambda: clock.get("date"), None, "what the guest's clock shows"),
            Link("acpi-device", "link<hotplug-handler>", lambda: power, None, "power management"),
        )
    )


def _backend(config: Config) -> str:
    """Id of the memory backend that is the RAM; with -numa the first node's."""
    from vmmd.machine.build import DEFAULT_RAM

    named = [node.memdev for node in config.numa if node.memdev]
    return config.machine.memory_backend or (named[0] if named else DEFAULT_RAM)


def _boot(config: Config) -> dict[str, object]:
    """``-boot`` as BootConfiguration."""
    from vmmd.machine.pc_i440fx import DEFAULT_BOOT_ORDER

    boot = config.boot
    given = {
        "once": boot.once,
        "menu": boot.menu,
        "splash-time": boot.splash_time,
        "reboot-timeout": boot.reboot_timeout,
    }
    default = "" if config.machine.type == "none" else DEFAULT_BOOT_ORDER
    shown: dict[str, object] = {"order": default if boot.order is None else boot.order}
    shown |= {name: value for name, value in given.items() if value is not None}
    if "strict" in boot.given:
        shown["strict"] = boot.strict
    return shown


def _memory(config: Config) -> dict[str, object]:
    memory = config.memory
    shown: dict[str, object] = {"size": 0 if config.machine.type == "none" else memory.size_bytes}
    if memory.maxmem_bytes is not None:
        shown |= {"max-size": memory.maxmem_bytes, "slots": memory.slots}
    return shown


def _smp(config: Config) -> dict[str, object]:
    smp = config.smp
    names = ("cpus", "maxcpus", "sockets", "dies", "clusters", "cores", "threads")
    return {name: getattr(smp, name) for name in names}
