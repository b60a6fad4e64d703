# SPDX-License-Identifier: Apache-2.0
"""What is known while a command line is being read: the growing ``Config`` and what only later options decide."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmmd.errors import UsageError
from vmmd.options import lexer
from vmmd.options.fields import at, shown
from vmmd.options.models import Config, LaterOption

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.options.nics import NicRequest


class HelpRequested(Exception):  # no error: the user asked
    """Raised by ``parse`` when the user asks for a text instead of a machine; ``help.render`` makes the text."""

    def __init__(self, option: str, topic: str | None = None) -> None:
        super().__init__(option)
        self.option = option  # without dash: "help", "version", "machine", "cpu", "device", …
        self.topic = topic  # "virtio-blk-pci" of -device virtio-blk-pci,help


class Draft:
    """State of one ``parse``."""

    __slots__ = ("chardev_users", "config", "given", "monitor_count", "nics", "serial_count")

    def __init__(self) -> None:
        self.config = Config()
        self.given: set[str] = set()  # options seen, without dash
        self.serial_count = 0  # -serial none counts
        self.monitor_count = 0
        self.nics: list[NicRequest] = []
        self.chardev_users: list[tuple[str, str]] = []  # (option as written, chardev id)

    def later(self, option: str, argument: str | None) -> None:
        """Remember an option that this version does not have."""
        self.config.later.append(LaterOption(option, argument))


class OptionSpec(NamedTuple):
    """One option of the command line."""

    name: str
    metavar: str | None  # shape of the argument in -help; None: takes none
    group: str
    help: str
    read: Callable[[Draft, str, str], None]  # (draft, option with dash, argument or "")
    later: bool = False


def refuse_duplicate(option: str, kind: str, id_: str, known: object) -> None:
    """Raise when ``id_`` is in ``known``."""
    if id_ in known:  # type: ignore[operator]  # any container
        # QEMU-COMPAT: the phrase
        raise UsageError(f"{at(option, 'id', id_)}: Duplicate ID '{shown(id_)}' for {kind}")


_HELP_SUFFIXES = (",help", ",?")


def asks_for_help(option: str, text: str) -> None:
    """Raise HelpRequested for ``-device help`` and ``-device NAME,help``."""
    if lexer.wants_help(text):
        raise HelpRequested(option[1:])
    for suffix in _HELP_SUFFIXES:
        if text.endswith(suffix) and not lexer.is_json(text):
            raise HelpRequested(option[1:], text.split(",", 1)[0].partition("=")[2] or text.split(",", 1)[0])
