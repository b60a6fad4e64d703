# SPDX-License-Identifier: Apache-2.0
"""The texts of ``-help``, ``-version`` and of every ``… help``, made from the same declarations that parse.

``render(request, cpu_text=…)`` returns what goes to standard output (status 0). The text of ``-cpu help`` is given by
the caller, because options may not import the KVM part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import vmmd
from vmmd.core import registry, trace
from vmmd.errors import UsageError
from vmmd.options import backends, netdevs, nics, objects, read_machine
from vmmd.options.fields import shown, unknown_name
from vmmd.options.models import MachineOptions, machine_types
from vmmd.options.table import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vmmd.core.device import Device
    from vmmd.core.props import Prop, PropSet
    from vmmd.options.draft import HelpRequested

WIDTH = 100  # of -help, in columns
_NAME_COLUMN = 44

#: headings of -device help, by ``Device.category``
CATEGORIES = {
    "bridge": "Controller/Bridge/Hub devices",
    "usb": "USB devices",
    "storage": "Storage devices",
    "network": "Network devices",
    "input": "Input devices",
    "display": "Display devices",
    "sound": "Sound devices",
    "misc": "Misc devices",
    "cpu": "CPU devices",
    "watchdog": "Watchdog devices",
}


def render(request: HelpRequested, *, cpu_text: Callable[[], str]) -> str:
    """The text for ``request``, with its final newline. Raises UsageError for an unknown topic."""
    option, topic = request.option, request.topic
    if option in _TOPICS:
        make_about, known = _TOPICS[option]
        return make_about(known, topic)
    if option == "cpu":
        return cpu_text()
    return _PLAIN[option]()


def version_text() -> str:
    """Two lines; the first one is read by tools that look for QEMU's version."""
    major, minor, micro = vmmd.QEMU_COMPAT_VERSION
    return (
        f"QEMU emulator version {major}.{minor}.{micro} (vmmd {vmmd.__version__})\n"
        f"vmmd {vmmd.__version__}, a virtual machine monitor with QEMU's command line and QMP\n"
    )


def options_text() -> str:
    """``-help``: every option of this version by group, one line each, then what later versions bring."""
    lines = [f"vmmd {vmmd.__version__}", "usage: vmmd [options]"]
    group = None
    for spec in OPTIONS:
        if spec.later:
            continue
        if spec.group != group:
            group = spec.group
            lines += ["", f"{group}:"]
        head = f"-{spec.name}" + (f" {spec.metavar}" if spec.metavar is not None else "")
        lines.append(f"{head:<{_NAME_COLUMN}} {spec.help}")
    lines += ["", "Options of QEMU that this version does not have:"]
    lines += _wrapped([f"-{spec.name}" for spec in OPTIONS if spec.later])
    return _lines(*lines)


def machines_text() -> str:
    """``-machine help``."""
    lines = ["Supported machines are:"]
    for machine in machine_types().values():
        if machine.alias:
            lines.append(f"{machine.alias:<20} {machine.description} (alias of {machine.name})")
        default = " (default)" if machine.alias else ""
        lines.append(f"{machine.name:<20} {machine.description}{default}")
    return _lines(*lines)


def devices_text() -> str:
    """``-device help``: user-creatable device types by category."""
    by_category: dict[str, list[type[Device]]] = {}
    for cls in registry.all_device_classes().values():
        if cls.user_creatable:
            by_category.setdefault(cls.category, []).append(cls)
    lines: list[str] = []
    for category in sorted(by_category, key=lambda name: [*CATEGORIES].index(name) if name in CATEGORIES else 99):
        lines += ["", f"{CATEGORIES.get(category, category)}:"] if lines else [f"{CATEGORIES.get(category, category)}:"]
        for cls in sorted(by_category[category], key=lambda each: each.type_name):
            bus = f", bus {cls.bus_type}" if cls.bus_type else ""
            text = f', desc "{cls.description}"' if cls.description else ""
            lines.append(f'name "{cls.type_name}"{bus}{text}')
    return _lines(*lines)


def device_text(driver: str) -> str:
    """``-device DRIVER,help``: its properties."""
    cls = registry.device_class(driver)
    if cls is None:
        if driver in registry.LATER:
            raise UsageError(f"-device {driver}: not available in this version")
        what = f"'{shown(driver)}' is not a valid device model name"
        raise unknown_name(f"-device {shown(driver)}", driver, registry.DEVICES, what)
    return _lines(f"{driver} options:", *prop_lines(cls.Props))


def prop_lines(props: type[PropSet]) -> list[str]:
    """``  name=<type>   - doc (default: …)`` for each declared property, by name."""
    later = getattr(props, "later", {})  # keys of options that only a later version has are not offered
    return [_prop_line(declared) for name, declared in sorted(props.declared.items()) if later.get(name) != ()]


def _prop_line(declared: Prop[Any]) -> str:
    head = f"  {declared.wire_name}=<{declared.kind.qapi_name}>"
    return f"{head:<24} - {declared.doc}{_default(declared)}"


def _default(declared: Prop[Any]) -> str:
    value = declared.default
    if declared.required or value is None or value in ("", ()):
        return " (required)" if declared.required else ""
    if isinstance(value, bool):
        return f" (default: {'on' if value else 'off'})"
    return f" (default: {declared.kind.to_json(value)})"


def _about_devices(_known: object, topic: str | None) -> str:
    return devices_text() if topic is None else device_text(topic)


def _about_table(known: tuple[str, str, dict[str, type[PropSet]]], topic: str | None) -> str:
    """``-chardev help`` and the like: the names, or the keys of one."""
    option, title, classes = known
    if topic is None:
        return _lines(title, *(f"  {name}" for name in classes or ("(none in this version)",)))
    cls = classes.get(topic)
    if cls is None:
        raise unknown_name(f"{option} {shown(topic)}", topic, classes, f"there is no '{shown(topic)}' in this version")
    return _lines(f"{topic} options:", *prop_lines(cls))


def _about_machine(_known: object, topic: str | None) -> str:
    if topic is None:
        return machines_text()
    return _lines(f"{topic}-machine options:", *prop_lines(MachineOptions))


_TOPICS: dict[str, tuple[Callable[[Any, str | None], str], object]] = {
    "device": (_about_devices, None),
    "machine": (_about_machine, None),
    "chardev": (_about_table, ("-chardev", "Available chardev backend types:", backends.CHARDEVS)),
    "object": (_about_table, ("-object", "List of user creatable objects:", objects.OBJECTS)),
    "net": (_about_table, ("-net", "Available netdev backend types:", netdevs.NETDEVS)),
    "nic": (_about_table, ("-nic", "Available netdev backend types:", netdevs.NETDEVS)),
    "netdev": (_about_table, ("-netdev", "Available netdev backend types:", netdevs.NETDEVS)),
}

_PLAIN: dict[str, Callable[[], str]] = {
    "help": options_text,
    "version": version_text,
    "accel": lambda: _lines("Accelerators supported by vmmd:", *read_machine.ACCELS),
    "display": lambda: _lines("Available display backend types:", "none"),
    "vga": lambda: _lines("none                 no graphic card"),
    "k": lambda: _lines("en-us"),
    "nic-model": lambda: _lines("Supported NIC models:", *nics.models()),
    "d": trace.log_items_text,
    "trace": trace.events_text,
}


def _wrapped(words: list[str]) -> list[str]:
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) + 1 > WIDTH:
            lines.append("")
        lines[-1] += word if not lines[-1] else f" {word}"
    return lines


def _lines(*lines: str | Iterable[str]) -> str:
    flat: list[str] = []
    for line in lines:
        flat.extend([line] if isinstance(line, str) else line)
    return "\n".join(flat) + "\n"
