# SPDX-License-Identifier: Apache-2.0
"""Readers of the options that define backends and devices: drives, nodes, objects, networks, devices, monitors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmmd.errors import UsageError
from vmmd.options import backends, keyval, lexer, objects
from vmmd.options.draft import asks_for_help, refuse_duplicate
from vmmd.options.fields import is_identifier, shown, unknown_name
from vmmd.options.models import DeviceOptions, MonitorOptions, SerialOptions
from vmmd.options.shorthands import add_chardev, read_chardev

if TYPE_CHECKING:
    from vmmd.options.draft import Draft
    from vmmd.options.fields import Items

__all__ = ["read_chardev"]


# --- devices ----------------------------------------------------------------------------------------------------------


def read_device(draft: Draft, option: str, text: str) -> None:
    """``-device DRIVER,…``: keys are checked against the driver's properties by the machine."""
    asks_for_help(option, text)
    argument = keyval.parse(option, text, "driver", json=True)
    driver = _selector(argument, "driver", text)
    id_ = argument.take("id")
    if id_ is not None and not (isinstance(id_, str) and is_identifier(id_)):
        raise UsageError(f"{option} {shown(driver)},id={shown(id_)}: Parameter 'id' expects an identifier")
    bus = argument.take("bus")
    if bus is not None and not isinstance(bus, str):
        raise UsageError(f"{option} {shown(driver)},bus={shown(bus)}: 'bus' takes the name of a bus")
    if id_ is not None and any(device.id == id_ for device in draft.config.devices):
        refuse_duplicate(f"{option} {driver}", "device", id_, [id_])
    draft.config.devices.append(DeviceOptions(driver, id_, bus, argument.items, argument.is_json))


def _selector(argument: keyval.Argument, key: str, text: str) -> str:
    """The word that says what is asked for (driver, type, qom-type)."""
    word = argument.take(key)
    if word is None or word == "":
        # QEMU-COMPAT: the phrase
        raise UsageError(f"{argument.option} {shown(text)}: Parameter '{key}' is missing")
    if not isinstance(word, str):
        raise UsageError(f"{argument.option} {key}={shown(word)}: Invalid parameter type for '{key}', expected: string")
    return word


# --- character devices in short form, monitors ------------------------------------------------------------------------


def read_serial(draft: Draft, option: str, text: str) -> None:
    """``-serial DEV``: the next COM port."""
    index = draft.serial_count
    draft.serial_count += 1
    chardev = add_chardev(draft, option, text, f"serial{index}")
    if chardev is not None:
        draft.config.serials.append(SerialOptions(index, chardev))


def read_debugcon(draft: Draft, option: str, text: str) -> None:
    """``-debugcon DEV``: an isa-debugcon at port 0xe9."""
    chardev = add_chardev(draft, option, text, "debugcon")
    if chardev is None:
        if text == "none":
            raise UsageError(f"{option} none: invalid character backend 'none'", "leave the option out")
        return
    draft.config.debugcon = chardev
    items: Items = [("chardev", chardev)]  # no port: -global isa-debugcon.iobase= says another than the default
    draft.config.devices.append(DeviceOptions("isa-debugcon", None, None, items, made_from=f"{option} {shown(text)}"))


_QTEST_ID = "qtest"  # QEMU-COMPAT: the id of its character device


def read_qtest(draft: Draft, option: str, text: str) -> None:
    """``-qtest DEV``: the last one counts."""
    former = draft.config.qtest
    draft.chardev_users = [(user, id_) for user, id_ in draft.chardev_users if id_ != former]
    if former == _QTEST_ID:
        del draft.config.chardevs[_QTEST_ID]
    draft.config.qtest = add_chardev(draft, option, text, _QTEST_ID)


def read_parallel(draft: Draft, option: str, text: str) -> None:
    """``-parallel none``; a parallel port does not exist yet."""
    if text != "none":
        draft.later(option, text)


def read_qmp(draft: Draft, option: str, text: str) -> None:
    """``-qmp DEV`` and ``-qmp-pretty DEV``."""
    pretty = "on" if option == "-qmp-pretty" else "off"
    _short_monitor(draft, option, text, [("mode", "control"), ("pretty", pretty)])


def _short_monitor(draft: Draft, option: str, text: str, keys: Items) -> None:
    chardev = add_chardev(draft, option, text, f"compat_monitor{draft.monitor_count}")
    if chardev is None:
        if text == "none":
            raise UsageError(f"{option} none: 'none' is not a valid char driver", "leave the option out")
        return
    draft.monitor_count += 1
    draft.config.monitors.append(MonitorOptions.from_items([("chardev", chardev), *keys], option))


def read_monitor(draft: Draft, option: str, text: str) -> None:
    """``-monitor DEV``, or ``none``."""
    if text != "none":
        _short_monitor(draft, option, text, [("mode", "readline")])


def read_mon(draft: Draft, option: str, text: str) -> None:
    """``-mon chardev=ID,mode=control|readline``."""
    argument = keyval.parse(option, text, "chardev")
    made: MonitorOptions = MonitorOptions.from_items(argument.items, option)
    if made.mode == "readline" and made.pretty:
        raise UsageError(
            f"{option} chardev={shown(made.chardev)}: 'pretty' is not compatible with HMP monitors", "it is for QMP"
        )
    if made.id is not None:
        refuse_duplicate(option, "mon", made.id, [monitor.id for monitor in draft.config.monitors])
    draft.chardev_users.append((f"{option} chardev={shown(made.chardev)}", made.chardev))
    draft.config.monitors.append(made)


# --- disks ------------------------------------------------------------------------------------------------------------


def read_drive(draft: Draft, option: str, text: str) -> None:
    """``-drive``; ``if=virtio`` also makes the device, after all options are read (``defaults.py``)."""
    if lexer.wants_help(text):
        raise UsageError(f"{option} help: there is no list", "see -drive in -help")
    made = drive_options(option, text)
    if made.id is not None:
        refuse_duplicate(option, "drive", made.id, [drive.id for drive in draft.config.drives])
    draft.config.drives.append(made)


def read_hd(draft: Draft, option: str, text: str) -> None:
    """``-hda FILE`` to ``-hdd FILE``: the IDE disk with that number."""
    number = "abcd".index(option[-1])
    items = [("index", str(number)), ("file", text), ("media", "disk")]
    _add_short_form(draft, f"{option} {shown(text)}", items)


def read_fd(draft: Draft, option: str, text: str) -> None:
    """``-fda FILE`` and ``-fdb FILE``: a diskette in drive A or B."""
    items = [("if", "floppy"), ("index", str("ab".index(option[-1]))), ("file", text)]
    _add_short_form(draft, f"{option} {shown(text)}", items)


def read_cdrom(draft: Draft, option: str, text: str) -> None:
    """``-cdrom FILE``: the third IDE drive, which is a CD-ROM."""
    items = [("index", "2"), ("file", text), ("media", "cdrom")]
    _add_short_form(draft, f"{option} {shown(text)}", items)


def _add_short_form(draft: Draft, where: str, items: list[tuple[str, str]]) -> None:
    """A drive of another option than ``-drive``, which errors name."""
    made: backends.DriveOptions = backends.DriveOptions.from_items(items, where)
    made.made_from = where
    draft.config.drives.append(made)


def drive_options(option: str, text: str) -> backends.DriveOptions:
    """The argument of ``-drive``. Raises UsageError."""
    argument = keyval.parse(option, text)
    id_ = argument.peek("id")
    made: backends.DriveOptions = backends.DriveOptions.from_items(
        argument.items, option if id_ is None else f"{option} id={id_}"
    )
    if made.file_options:
        made.protocol = _drive_protocol(made, option)
    return made


#: block drivers that ``file=DRIVER://`` stands for
_NAMELESS = ("null-co", "null-aio")


def _drive_protocol(drive: backends.DriveOptions, option: str) -> backends.BlockdevOptions:
    """The node that ``file.KEY=…`` keys describe; ``file=`` is its filename, or names a driver that needs none."""
    items = list(drive.file_options)
    nameless = (drive.file or "").removesuffix("://")
    driver = nameless if nameless in _NAMELESS else "file"
    driver = next((value for key, value in items if key == "driver"), driver)
    items = [(key, value) for key, value in items if key != "driver"]
    if drive.file is not None and nameless != driver:
        items.insert(0, ("filename", drive.file))
    return _block_node(driver, keyval.Argument(option, items), f"{option} file.driver={shown(driver)}")


def read_blockdev(draft: Draft, option: str, text: str) -> None:
    """``-blockdev driver=…,node-name=…`` or JSON."""
    made = blockdev_options(option, text)
    if made.node_name is None:
        # QEMU-COMPAT: the phrase
        raise UsageError(f"{option} {_driver_of(made)}: 'node-name' must be specified for the root node")
    draft.config.blockdevs.append(made)


def blockdev_options(option: str, text: str) -> backends.BlockdevOptions:
    """The argument of ``-blockdev``. Raises UsageError."""
    argument = keyval.parse(option, text, "driver", strict=True, json=True)
    driver = _selector(argument, "driver", text)
    name = argument.peek("node-name")
    return _block_node(driver, argument, f"{option} {shown(driver)}" + (f",node-name={shown(name)}" if name else ""))


def _driver_of(node: backends.BlockdevOptions) -> str:
    return node.kind if isinstance(node, backends.LaterBlockdev) else node.driver


def block_node(arguments: dict[str, Any], where: str) -> backends.BlockdevOptions:
    """A node from a JSON object as QMP has it; ``where`` starts the error sentences. Raises UsageError."""
    argument = keyval.Argument(where, keyval.flatten(arguments, where), is_json=True)
    return _block_node(_selector(argument, "driver", ""), argument, where)


def _block_node(driver: str, argument: keyval.Argument, where: str) -> backends.BlockdevOptions:
    """A typed block node with its inline children."""
    if driver in backends.BLOCKDEVS_LATER:
        later = backends.LaterBlockdev(driver, argument.items)
        later.values["node_name"] = argument.peek("node-name")
        return later
    cls = backends.BLOCKDEVS.get(driver)
    if cls is None:
        prefix = f"{argument.option} driver={shown(driver)}"
        what = f"Parameter 'driver' does not accept value '{shown(driver)}'"
        raise unknown_name(prefix, driver, backends.BLOCKDEVS, what)
    items = argument.items
    children: Items = []
    for declared in cls.each():
        if declared.kind is backends.BLOCK_CHILD:
            inside, items = keyval.split_prefix(items, f"{declared.wire_name}.")
            if inside:
                inline = keyval.Argument(argument.option, inside, argument.is_json)
                child_driver = _selector(inline, "driver", f"{declared.wire_name}.*")
                children.append((declared.name, _block_node(child_driver, inline, f"{where},{declared.wire_name}")))
    made = cls()
    made.take(items, where, is_json=argument.is_json)
    for name, child in children:
        if name in made.values:
            raise UsageError(f"{where}: '{name}' is given both as a name and by its keys")
        made.values[name] = child
    made.check(where)
    return made


# --- objects, networks, sound, display --------------------------------------------------------------------------------


def read_object(draft: Draft, option: str, text: str) -> None:
    """``-object TYPE,id=…`` or JSON."""
    asks_for_help(option, text)
    made = object_options(option, text)
    refuse_duplicate(option, "object", made.id, [other.id for other in draft.config.objects])
    draft.config.objects.append(made)


def object_options(option: str, text: str) -> objects.ObjectOptions:
    """The model of an object from text. Raises UsageError."""
    argument = keyval.parse(option, text, "qom-type", json=True)
    made: objects.ObjectOptions = by_table(
        argument, "qom-type", text, (objects.OBJECTS, objects.OBJECTS_LATER, objects.LaterObject)
    )
    return made


def by_table(argument: keyval.Argument, key: str, text: str, table: tuple[Any, Any, Any]) -> Any:
    """The model for the selecting word ``key``: of this version, of a later one, or an error. ``table``: the models by
    word, the words of later versions, and the model for those."""
    classes, later, later_class = table
    word = _selector(argument, key, text)
    id_ = argument.peek("id")
    if not isinstance(id_, str):
        raise UsageError(
            f"{argument.option} {shown(word)}: Parameter 'id' is missing", "it is the name that other options use"
        )
    if not is_identifier(id_):
        raise UsageError(f"{argument.option} {shown(word)},id={shown(id_)}: Parameter 'id' expects an identifier")
    if word in classes:
        return classes[word].from_items(argument.items, f"{argument.option} {word},id={id_}", is_json=argument.is_json)
    if word in later:
        made = later_class(word, argument.items)
        made.values["id"] = id_
        return made
    what = f"Parameter '{key}' does not accept value '{shown(word)}'"
    raise unknown_name(f"{argument.option} {key}={shown(word)}", word, classes, what)


def read_audiodev(draft: Draft, option: str, text: str) -> None:
    """``-audiodev none,id=…`` or JSON."""
    argument = keyval.parse(option, text, "driver", strict=True, json=True)
    driver = argument.peek("driver")
    if driver in backends.AUDIODEVS_LATER:
        draft.later(option, str(driver))
        return
    if driver is not None and driver != "none":
        what = f"Parameter 'driver' does not accept value '{shown(driver)}'"
        raise unknown_name(f"{option} driver={shown(driver)}", str(driver), ["none"], what)
    made: backends.AudiodevOptions = backends.AudiodevOptions.from_items(
        argument.items, option, is_json=argument.is_json
    )
    refuse_duplicate(option, "audiodev", made.id, [other.id for other in draft.config.audiodevs])
    draft.config.audiodevs.append(made)


def read_vnc(draft: Draft, option: str, text: str) -> None:
    """``-vnc ADDRESS:NUMBER,…``; ``none`` asks for nothing."""
    if text == "none":
        return
    argument = keyval.parse(option, text, "vnc")
    draft.config.vnc = backends.VncOptions.from_items(argument.items, option)
