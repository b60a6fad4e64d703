# SPDX-License-Identifier: Apache-2.0
"""What of a well-formed command line this version does not have. Nothing that a user asks for is silently left out.

``check`` raises for the first such thing: ``-device cirrus-vga: not available in this version``. When a later version
brings it, its entry leaves ``…_LATER``, ``later`` or ``registry.LATER``, and nothing else changes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core import registry
from vmmd.errors import UsageError
from vmmd.options.backends import LaterBlockdev, LaterChardev
from vmmd.options.fields import shown
from vmmd.options.netdev_base import LaterNetdev
from vmmd.options.objects import LaterObject
from vmmd.options.read_machine import ACCELS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmmd.options.backends import BlockdevOptions, ChardevOptions, DriveOptions
    from vmmd.options.fields import OptionSet
    from vmmd.options.models import Config
    from vmmd.options.netdev_base import NetdevOptions

SENTENCE = "not available in this version"
DRIVE_FORMATS = ("raw",)
#: ``file=PROTOCOL:…`` of -drive that a later version brings; any other colon is part of a path
PROTOCOLS_LATER = (
    "blkverify", "fat", "ftp", "ftps", "gluster", "gluster+rdma", "gluster+tcp", "gluster+unix", "http",
    "https", "iscsi", "iser", "json", "nbd", "nbd+tcp", "nbd+unix", "nfs", "nvme", "quorum", "rbd", "sheepdog", "ssh",
)  # fmt: skip


def check(config: Config) -> None:
    """Raises UsageError naming the first thing that is not available."""
    for what in refusals(config):
        raise UsageError(f"{what}: {SENTENCE}")


def check_drive(drive: DriveOptions) -> None:
    """``check`` for one drive."""
    for what in _drive(drive):
        raise UsageError(f"{what}: {SENTENCE}")


def check_node(node: BlockdevOptions, where: str) -> None:
    """``check`` for one block node."""
    for what in _node(node, where):
        raise UsageError(f"{what}: {SENTENCE}")


def refusals(config: Config) -> Iterator[str]:
    """Everything in ``config`` that this version does not have, as the user wrote it."""
    for option, argument in config.later:
        yield option if argument is None else f"{option} {shown(argument)}"
    yield from _machine(config)
    yield from _display(config)
    yield from _backends(config)
    for nic in config.nics:
        if nic.driver not in registry.DEVICES:
            yield f"{nic.made_from} (a NIC of model {nic.driver}; model=virtio is there)"
    for device in config.devices:
        if device.driver in registry.LATER and device.driver not in registry.DEVICES:
            yield f"-device {device.driver}"


def _keys(option: str, model: OptionSet | None) -> Iterator[str]:
    found = model.first_unavailable() if model is not None else None
    if found is not None:
        yield f"{option} {found}"


def _machine(config: Config) -> Iterator[str]:
    yield from _keys("-machine", config.machine)
    if config.accels and not any(accel.accel in ACCELS for accel in config.accels):
        yield f"-accel {config.accels[0].accel}"
    for accel in config.accels:
        if accel.accel in ACCELS:
            yield from _keys(f"-accel {accel.accel}", accel)
    yield from _keys("-overcommit", config.overcommit)
    yield from _keys("-msg", config.msg)
    yield from _keys("-boot", config.boot)
    yield from _keys("-action", config.action)
    if config.sandbox is not None:
        yield from _keys("-sandbox", config.sandbox)
    for node in config.numa:
        yield from _keys(f"-numa node,nodeid={node.nodeid}", node)
    if len(config.numa) > 1:
        yield f"-numa node,nodeid={config.numa[1].nodeid} (more than one node)"
    for distance in config.numa_distances:
        yield f"-numa dist,src={distance.src}"
    for cpu in config.numa_cpus:
        yield f"-numa cpu,node-id={cpu.node_id}"
    for entry in config.fw_cfg:
        yield from _keys("-fw_cfg", entry)


def _display(config: Config) -> Iterator[str]:
    if config.display not in (None, "none"):
        yield f"-display {config.display}"
    if config.vga not in (None, "none"):
        yield f"-vga {config.vga}"
    if config.keyboard not in (None, "en-us"):  # without a display a layout has nothing to act on
        yield f"-k {config.keyboard}"


def _backends(config: Config) -> Iterator[str]:
    for entry in config.objects:
        if isinstance(entry, LaterObject):
            yield f"-object {entry.kind}"
        else:
            yield from _keys(f"-object {entry.qom_type},id={entry.id}", entry)
    for chardev in config.chardevs.values():
        yield from _chardev(chardev)
    for drive in config.drives:
        yield from _drive(drive)
    for node in config.blockdevs:
        yield from _node(node, "-blockdev")
    for netdev in config.netdevs:
        yield from _netdev(netdev)
    if config.vnc is not None:
        yield f"-vnc {shown(config.vnc.display)}"


def check_chardev(chardev: ChardevOptions) -> None:
    """Raises UsageError for a character device, or a key of it, that is not available."""
    for what in _chardev(chardev):
        raise UsageError(f"{what}: {SENTENCE}")


def _chardev(chardev: ChardevOptions) -> Iterator[str]:
    if isinstance(chardev, LaterChardev):
        yield f"-chardev {chardev.kind}"
    else:
        yield from _keys(f"-chardev {chardev.backend},id={chardev.id}", chardev)


def check_netdev(netdev: NetdevOptions) -> None:
    """Raises UsageError for a network backend, or a key of it, that is not available."""
    for what in _netdev(netdev):
        raise UsageError(f"{what}: {SENTENCE}")


def _netdev(netdev: NetdevOptions) -> Iterator[str]:
    if isinstance(netdev, LaterNetdev):
        yield netdev.made_from or f"-netdev {netdev.other_kind}"
    else:
        yield from _keys(netdev.where, netdev)


def _drive(drive: DriveOptions) -> Iterator[str]:
    where = drive.where
    yield from _keys(where, drive)
    if drive.format is not None and drive.format not in DRIVE_FORMATS:
        yield f"{where},format={shown(drive.format)}"
    if drive.throttling:
        yield f"{where},{drive.throttling[0][0]}={shown(drive.throttling[0][1])}"
    protocol, colon, _ = (drive.file or "").partition(":")
    if colon and protocol in PROTOCOLS_LATER:
        yield f"{where},file={protocol}:"
    if drive.protocol is not None:
        yield from _node(drive.protocol, f"{where},file")


def _node(node: BlockdevOptions, where: str) -> Iterator[str]:
    if isinstance(node, LaterBlockdev):
        yield f"{where} driver={node.kind}"
        return
    yield from _keys(f"{where} {node.driver},node-name={node.node_name}", node)
    for child in node.children():
        yield from _node(child, where)
