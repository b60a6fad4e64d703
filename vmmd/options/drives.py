# SPDX-License-Identifier: Apache-2.0
"""Where each ``-drive`` goes: bus and unit on its interface, and its id when the user gave none. QEMU's rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import UsageError
from vmmd.options.models import DeviceOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.options.backends import DriveOptions
    from vmmd.options.models import Config

#: units on one bus of an interface; of the others there is one bus without end
UNITS = {"ide": 2, "scsi": 7}
DEFAULT_CDROM_INDEX = 2
#: buses of an interface that the board has
BUSES = {"ide": 2, "floppy": 1}
FLOPPIES = 2  # QEMU-COMPAT: not a limit of the interface, but of the board
#: interfaces whose devices follow rerror and werror
_WITH_POLICY = ("ide", "scsi", "virtio", "none")


def place_drives(config: Config) -> None:
    """Give every drive its bus, unit and id; ``if=virtio`` makes the device, too. Raises UsageError."""
    taken: set[tuple[str, int, int]] = set()
    for drive in config.drives:
        _check_policy(drive)
        bus, unit = _place(drive, taken)
        taken.add((drive.interface, bus, unit))
        drive.bus, drive.unit = bus, unit
        if drive.id is None:
            drive.id = _free_name(_name(drive), [other.id for other in config.drives])
        if drive.interface == "virtio":
            config.devices.append(
                DeviceOptions("virtio-blk-pci", None, None, [("drive", drive.id)], made_from=f"-drive id={drive.id}")
            )


def _check_policy(drive: DriveOptions) -> None:
    for name in ("werror", "rerror"):
        if name in drive.given and drive.interface not in _WITH_POLICY:
            # QEMU-COMPAT: the sentence
            raise UsageError(
                f"-drive if={drive.interface}: {name} is not supported by this bus type", "the guest is told of errors"
            )


def add_default_cdrom(config: Config) -> None:
    """The CD-ROM drive that is there when nobody asks for one, unless another drive has its place."""
    from vmmd.options.backends import DriveOptions

    bus, unit = divmod(DEFAULT_CDROM_INDEX, UNITS["ide"])
    if any((drive.interface, drive.bus, drive.unit) == ("ide", bus, unit) for drive in config.drives):
        return
    made: DriveOptions = DriveOptions.from_items([("media", "cdrom")], "-cdrom")
    made.bus, made.unit = bus, unit
    made.id = _free_name(_name(made), [other.id for other in config.drives])
    # QEMU-COMPAT: the empty floppy drive comes behind it
    empty_floppy = [drive for drive in config.drives[-1:] if drive.interface == "floppy" and not drive.file]
    config.drives.insert(len(config.drives) - len(empty_floppy), made)


def _place(drive: DriveOptions, taken: set[tuple[str, int, int]]) -> tuple[int, int]:
    """Bus and unit: those that are given, or the first that is free from there on."""
    interface = drive.interface
    units = UNITS.get(interface, 0)
    where = drive.where
    bus, unit = drive.bus or 0, drive.unit
    # QEMU-COMPAT: the sentences
    if drive.index is not None:
        if drive.bus is not None or unit is not None:
            raise UsageError(f"{where}: index cannot be used with bus and unit", "index counts over all buses")
        bus, unit = divmod(drive.index, units) if units else (0, drive.index)
    if unit is None:
        unit = 0
        while (interface, bus, unit) in taken:
            bus, unit = (bus + 1, 0) if unit + 1 == units else (bus, unit + 1)
    if units and unit >= units:
        raise UsageError(f"{where}: unit {unit} too big (max is {units - 1})")
    if (interface, bus, unit) in taken:
        index = bus * units + unit if units else unit
        raise UsageError(f"{where}: drive with bus={bus}, unit={unit} (index={index}) exists")
    if bus >= BUSES.get(interface, bus + 1) or (interface == "floppy" and unit >= FLOPPIES):
        last = BUSES[interface] * (units or FLOPPIES) - 1
        raise UsageError(
            f"{where}: machine type does not support if={interface},bus={bus},unit={unit}",
            f"the board has room for index=0 to index={last}",
        )
    return bus, unit


def _name(drive: DriveOptions) -> str:
    """QEMU-COMPAT: ``ide0-hd1``, ``ide1-cd0``, ``virtio0``, ``floppy0``, ``none3``."""
    interface, bus, unit = drive.interface, drive.bus, drive.unit
    kind = ("cd" if drive.media == "cdrom" else "hd") if interface in UNITS else ""
    return f"{interface}{bus}-{kind}{unit}" if kind else f"{interface}{unit}"


def _free_name(name: str, used: Iterable[str | None]) -> str:
    """Raises UsageError when the user gave the name to another drive."""
    if name in used:
        raise UsageError(f"-drive: Duplicate ID '{name}' for drive", "give this one another id=")
    return name
