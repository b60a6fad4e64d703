# SPDX-License-Identifier: Apache-2.0
"""Character devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import UsageError
from vmmd.options import help as option_help
from vmmd.options import lexer
from vmmd.options.backends import ChardevSocket
from vmmd.options.draft import HelpRequested
from vmmd.qmp.char_backend import WantedChardev, make
from vmmd.qmp.hmp.arguments import signed
from vmmd.qmp.hmp.completion import option_words
from vmmd.qmp.hmp.registry import forward, hmp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from vmmd.chardev.base import Chardev
    from vmmd.options.backends import ChardevOptions
    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor


def _labels(monitor: HumanMonitor, words: list[str]) -> Iterable[str]:
    return monitor.vm.chardevs if len(words) == 1 else ()


def _backends(monitor: HumanMonitor, words: list[str]) -> Iterable[str]:
    from vmmd.options.backends import CHARDEVS

    def keys(kind: str) -> Iterable[str]:
        return (each.wire_name for each in CHARDEVS[kind].each()) if kind in CHARDEVS else ()

    return option_words(words[0], CHARDEVS, keys) if len(words) == 1 else ()


def _wanted(text: str) -> WantedChardev:
    """QEMU-COMPAT: ``fd`` is a name that getfd gave; on the command line only it is a number."""
    from vmmd.options import availability
    from vmmd.options.shorthands import chardev_options

    options = chardev_options("chardev", text)
    availability.check_chardev(options)
    fd_name = None
    if isinstance(options, ChardevSocket):
        if options.waits:
            raise UsageError(f"chardev '{options.id}' would wait for its first client", "add wait=off")
        fd_name = options.fd
    return WantedChardev(options, False, fd_name)


@hmp("chardev-add", params="args", help="make a character device, as -chardev", complete=_backends)
async def chardev_add(monitor: HumanMonitor, arguments: Arguments) -> str:
    text = arguments.rest()
    if lexer.wants_help(text):
        return option_help.render(HelpRequested("chardev", None), cpu_text=str)
    return await _made(monitor.vm.chardevs.add, monitor, text)


@hmp("chardev-change", params="id args", help="put a new backend in the place of a character device", complete=_labels)
async def chardev_change(monitor: HumanMonitor, arguments: Arguments) -> str:
    name = arguments.string()
    backend = arguments.rest()
    if name not in monitor.vm.chardevs:
        raise UsageError(f"Chardev '{name}' does not exist")
    return await _made(monitor.vm.chardevs.change, monitor, f"{backend},id={name}")


async def _made(maker: Callable[[ChardevOptions], Awaitable[Chardev]], monitor: HumanMonitor, text: str) -> str:
    """QEMU-COMPAT: the path of a terminal is told."""
    from vmmd.chardev.pty import PtyChardev

    made = await make(maker, _wanted(text), monitor.session.fds)
    return f"{made.place}\n" if isinstance(made, PtyChardev) else ""


forward("chardev-remove", words="id", help="remove a character device that nothing uses", complete=_labels)
forward("chardev-send-break", words="id", help="send a break to the device behind a character device", complete=_labels)
forward("ringbuf_write", to="ringbuf-write", words="device data", help="add to a ring buffer", complete=_labels)


@hmp("ringbuf_read", params="device size", help="take the oldest bytes out of a ring buffer", complete=_labels)
async def ringbuf_read(monitor: HumanMonitor, arguments: Arguments) -> str:
    device = arguments.string()
    size = arguments.expression()
    arguments.done()
    data = await monitor.qmp("ringbuf-read", {"device": device, "size": signed(size)})
    return "".join(map(_visible, data)) + "\n"


def _visible(character: str) -> str:
    """QEMU-COMPAT: a backslash is doubled, control characters are numbers."""
    if character == "\\":
        return "\\\\"
    if (character < " " and character != "\n") or character == "\x7f":
        return f"\\u{ord(character):04X}"
    return character


@hmp("info chardev", help="character devices")
def info_chardev(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    return "".join(f"{label}: filename={device.filename}\n" for label, device in monitor.vm.chardevs.items())
