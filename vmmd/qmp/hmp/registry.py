# SPDX-License-Identifier: Apache-2.0
"""The table of the commands for people. A command is declared once, at its handler:

    @hmp("gva2gpa", params="addr", help="guest-physical address of a guest-virtual address")
    async def gva2gpa(monitor: HumanMonitor, arguments: Arguments) -> str:

From the declaration follow dispatch, ``help``, the usage in ``help gva2gpa``, and completion. A name that begins with
``info `` is a topic of ``info``. Further names are short forms: ``@hmp("cont", "c", …)``. The handler runs on the loop
and returns the text, or is ``async``; it raises VmmdError for what the monitor shows as ``Error: …``. Most handlers are
thin: ``await monitor.qmp("query-…")`` runs a QMP command with all its checks; ``forward`` declares those that only
pass their words on to one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from vmmd.core.notify import LoopPort
    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor

    Handler = Callable[[HumanMonitor, Arguments], str | Awaitable[str]]
    #: what the last of the words may be completed to; without the command's name and topic
    Completer = Callable[[HumanMonitor, list[str]], Iterable[str]]

F = TypeVar("F", bound="Handler")

#: one file per group of commands, in this package
MODULES = (
    "block",
    "buttons",
    "char",
    "cpu",
    "devices",
    "fds",
    "help",
    "interrupts",
    "keys",
    "kvm",
    "machine",
    "memory",
    "mtree",
    "network",
    "paging",
    "pci",
    "ports",
    "qom",
    "qtree",
    "run_state",
    "stats",
    "trace",
    "user_network",
    "virtqueues",
)


class HmpCommand(NamedTuple):
    """A command, or a topic of ``info``."""

    names: tuple[str, ...]
    params: str
    help: str
    handler: Handler
    complete: Completer | None

    @property
    def usage(self) -> str:
        return f"{'|'.join(self.names)} {self.params} -- {self.help}\n"


#: commands by every name that they have
COMMANDS: dict[str, HmpCommand] = {}
#: topics of ``info``
TOPICS: dict[str, HmpCommand] = {}
_loaded: list[bool] = []


def hmp(
    *names: str,
    params: str = "",
    help: str,  # noqa: A002  # it is what ``help`` shows
    complete: Completer | None = None,
) -> Callable[[F], F]:
    """Declare the handler of a command, by its name and its short forms, or of ``info TOPIC``."""
    table = TOPICS if names[0].startswith("info ") else COMMANDS
    names = tuple(name.removeprefix("info ") for name in names)

    def register(handler: F) -> F:
        declared = HmpCommand(names, params, help, handler, complete)
        table.update(dict.fromkeys(names, declared))
        return handler

    return register


def forward(
    *names: str,
    to: str = "",
    words: str = "",
    help: str,  # noqa: A002  # as of ``hmp``
    complete: Completer | None = None,
) -> None:
    """Declare a command that does what the QMP command of that name does, or the one that it is a synonym ``to``, and
    says nothing. ``words``: names of QMP's arguments, in the order that they are given in."""

    async def handler(monitor: HumanMonitor, arguments: Arguments) -> str:
        given: dict[str, object] = {word: arguments.string() for word in words.split()}
        arguments.done()
        await monitor.qmp(to or names[0], given)
        return ""

    hmp(*names, params=words, help=help, complete=complete)(handler)


async def ready(loop: LoopPort) -> None:
    """Have everything imported: the first time on a thread, as it takes 30 ms."""
    if not _loaded:
        from vmmd.core.background import once_on_thread

        await once_on_thread(loop, load, "settle")


def load() -> None:
    """Import the monitor and every module of commands (once)."""
    if not _loaded:
        importlib.import_module("vmmd.qmp.hmp.monitor")
        for module in MODULES:
            importlib.import_module(f"vmmd.qmp.hmp.{module}")
        _loaded.append(True)
