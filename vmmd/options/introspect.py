# SPDX-License-Identifier: Apache-2.0
"""``query-command-line-options``: the options that this version has and their keys, from the models that read them.

QEMU answers from tables of its own: some options under another name, of ``-machine`` a part of its keys only, none for
options whose keys depend on a first word (``-device``). Clients know these names, so vmmd tells a part of the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vmmd.core.props import BOOL, SIZE
from vmmd.options import backends, models
from vmmd.options.fields import SIZE_MIB
from vmmd.options.table import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmmd.core.props import Prop, PropType
    from vmmd.options.fields import OptionSet


class Parameter(NamedTuple):
    """One key of an option."""

    name: str
    type: str  # QAPI's CommandLineParameterType
    help: str | None
    default: str | None


class _Group(NamedTuple):
    """What QEMU knows by one name."""

    option: str
    models: tuple[type[OptionSet], ...] = ()
    only: tuple[str, ...] | None = None  # keys that are told; None: all
    hidden: tuple[str, ...] = ()  # keys that are not
    texts: tuple[str, ...] = ()  # keys that no model describes


#: QEMU's name → option. Not here: -sandbox and -vnc, of which only «off» and «none» are there: libvirt would use them.
GROUPS = {
    "machine": _Group(
        "machine",
        (models.MachineOptions,),
        only=("type", "accel", "kernel", "initrd", "append", "firmware", "dump-guest-core", "mem-merge", "usb"),
    ),
    "accel": _Group("accel"),
    "smp-opts": _Group("smp", (models.SmpOptions,), hidden=("clusters",)),
    "memory": _Group("m", (models.MemoryOptions,)),
    "numa": _Group("numa"),
    "global": _Group("global", texts=models.GlobalProperty._fields),
    "boot-opts": _Group("boot", (models.BootOptions,)),
    "name": _Group("name", (models.NameOptions,)),
    "add-fd": _Group("add-fd", (models.AddFdOptions,)),
    "device": _Group("device"),
    "overcommit": _Group("overcommit", (models.OvercommitOptions,)),
    "drive": _Group("drive", (backends.DriveOptions,), hidden=("cache",)),
    "netdev": _Group("netdev"),
    "nic": _Group("nic"),
    "net": _Group("net"),
    "chardev": _Group("chardev", tuple(backends.CHARDEVS.values()), hidden=backends.OWN_CHARDEV_KEYS),
    "mon": _Group("mon", (models.MonitorOptions,)),
    "smbios": _Group("smbios"),
    "fw_cfg": _Group("fw_cfg", (models.FwCfgOptions,)),
    "option-rom": _Group("option-rom", (models.OptionRomOptions,)),
    "action": _Group("action", (models.ActionOptions,)),
    "rtc": _Group("rtc", (models.RtcOptions,)),
    "msg": _Group("msg", (models.MsgOptions,)),
    "object": _Group("object"),
}
#: values of a key that ask for nothing
_NOTHING_ASKED = (False, "off", "auto")


def command_line_options() -> dict[str, list[Parameter]]:
    """The keys of every option that this version has, by QEMU's name of the option."""
    return {name: list(_parameters(group)) for name, group in GROUPS.items() if not BY_NAME[group.option].later}


def _parameters(group: _Group) -> Iterator[Parameter]:
    """The keys that can ask for something in this version. A ``-drive``'s id and the like are no keys for QEMU."""
    for name in group.texts:
        yield Parameter(name, "string", None, None)
    seen = {"id", *group.hidden}
    for model in group.models:
        for name, declared in model.declared.items():
            if name not in seen and (group.only is None or name in group.only) and not _is_later(model, name):
                seen.add(name)
                yield Parameter(name, _type(declared.kind), declared.doc, _default(declared))


def _is_later(model: type[OptionSet], name: str) -> bool:
    """True for a key of which at most one value is taken yet."""
    if name not in model.later:
        return False
    return len([value for value in model.later[name] if value not in _NOTHING_ASKED]) < 2


def _type(kind: PropType[Any]) -> str:
    if kind is BOOL:
        return "boolean"
    if kind in (SIZE, SIZE_MIB):
        return "size"
    return "number" if int in kind.json_kinds and list not in kind.json_kinds else "string"


def _default(declared: Prop[Any]) -> str | None:
    value = declared.default
    if declared.required or declared.kind is SIZE_MIB or value in (None, "", ()):
        return None
    return ("on" if value else "off") if isinstance(value, bool) else str(declared.kind.to_json(value))
