# SPDX-License-Identifier: Apache-2.0
"""Devices and disks that come and go."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from vmmd.core.background import on_thread
from vmmd.errors import UsageError, VmmdError
from vmmd.qmp.commands.block import block_graph
from vmmd.qmp.commands.qdev import plug
from vmmd.qmp.hmp.arguments import ArgumentError
from vmmd.qmp.hmp.completion import option_words
from vmmd.qmp.hmp.registry import forward, hmp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor


def _device_ids(monitor: HumanMonitor, words: list[str]) -> Iterable[str]:
    return monitor.vm.qom.peripheral.children


def _drivers(monitor: HumanMonitor, words: list[str]) -> Iterable[str]:
    from vmmd.core.registry import DEVICES

    values = {"drive": _disk_names(monitor, words), "chardev": list(monitor.vm.chardevs)}
    return option_words(words[0], DEVICES, _properties, values) if len(words) == 1 else ()


def _properties(driver: str) -> Iterable[str]:
    from vmmd.machine.device_plan import find_class

    return ("id", "bus", *(each.wire_name for each in find_class(driver).available()))


def _disk_names(monitor: HumanMonitor, words: list[str]) -> Iterable[str]:
    block = monitor.vm.block
    if block is None:
        return ()
    return [*(disk.name for disk in block.query() if disk.name), *(node.node_name for node in block.all_nodes())]


@hmp("device_add", params="driver[,prop=value][,...]", help="plug in a device, as -device", complete=_drivers)
async def device_add(monitor: HumanMonitor, arguments: Arguments) -> str:
    from vmmd.options import lexer
    from vmmd.options.keyval import Argument
    from vmmd.options.models import DeviceOptions

    text = "" if arguments.at_end else arguments.rest()
    if lexer.wants_help(text) or text.endswith((",help", ",?")):
        return await on_thread(monitor.vm.loop, partial(_device_help, text), "help")  # it imports every device
    argument = Argument("device_add", lexer.split(text, "driver", where="device_add"))
    driver, bus, id_ = (argument.take(key) for key in ("driver", "bus", "id"))
    if not driver:
        raise UsageError("Parameter 'driver' is missing")
    await plug(monitor.vm, DeviceOptions(driver, id_, bus, argument.items))
    return ""


def _device_help(text: str) -> str:
    from vmmd.options import help as option_help
    from vmmd.options.draft import HelpRequested

    topic = text.rpartition(",")[0].partition(",")[0].removeprefix("driver=") or None
    return option_help.render(HelpRequested("device", topic), cpu_text=str)


forward("device_del", words="id", help="unplug a device", complete=_device_ids)


@hmp(
    "drive_add",
    params="[-n] [[<domain>:]<bus>:]<slot> if=none,id=name,file=image,...",
    help="add a drive for a device_add that follows (-n: a block node, as -blockdev)",
)
async def drive_add(monitor: HumanMonitor, arguments: Arguments) -> str:
    """QEMU-COMPAT: the slot is asked for and means nothing; errors come without «Error:»."""
    as_node = "n" in arguments.flags("n")
    arguments.string()
    text = arguments.rest()
    try:
        await _add_node(monitor, text) if as_node else await _add_drive(monitor, text)
    except VmmdError as error:
        return f"{error}\n"
    return "" if as_node else "OK\n"


async def _add_drive(monitor: HumanMonitor, text: str) -> None:
    from vmmd.options import availability
    from vmmd.options.read_backends import drive_options

    options = drive_options("drive_add", text)
    if options.interface != "none":
        raise UsageError(f"Can't hot-add drive to type {options.interface}", "use if=none, and device_add")
    availability.check_drive(options)
    await (await block_graph(monitor.vm)).add_drive_later(options)


async def _add_node(monitor: HumanMonitor, text: str) -> None:
    from vmmd.options import availability
    from vmmd.options.read_backends import blockdev_options

    options = blockdev_options("drive_add", text)
    if options.node_name is None:
        # QEMU-COMPAT: QEMU's sentence
        raise UsageError("'node-name' needs to be specified")
    availability.check_node(options, "drive_add")
    await (await block_graph(monitor.vm)).add_later(options)


@hmp("drive_del", params="device", help="take a drive away, also from its device", complete=_disk_names)
async def drive_del(monitor: HumanMonitor, arguments: Arguments) -> str:
    """QEMU-COMPAT: a device that has the drive stays, without medium; errors come without «Error:»."""
    name = arguments.string("block device name")
    arguments.done()
    graph = await block_graph(monitor.vm)
    try:
        if name not in graph.drives and name in graph.nodes:
            await graph.remove(name)
            return ""
        graph.drive(name)  # for one that is not there, nothing has to stand still
        async with monitor.vm.at_rest():
            node = graph.empty(name)  # which another may have done while we waited for our turn
        if node is not None:
            await graph.discard(node)
    except VmmdError as error:
        return f"{error}\n"
    return ""


@hmp("block_resize", params="device size", help="give a disk another size", complete=_disk_names)
async def block_resize(monitor: HumanMonitor, arguments: Arguments) -> str:
    from vmmd.units import parse_size

    name = arguments.string("block device name")
    try:
        size_bytes = parse_size(arguments.word(), "M")
    except ValueError:
        raise ArgumentError("invalid size") from None
    arguments.done()
    await monitor.qmp("block_resize", {"device": name, "size": size_bytes})
    return ""
