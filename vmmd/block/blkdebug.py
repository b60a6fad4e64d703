# SPDX-License-Identifier: Apache-2.0
"""``blkdebug``: lets chosen requests fail, by the rules of a configuration file (QEMU's docs/devel/testing/blkdebug).

    [inject-error]                  [set-state]
    event = "read_aio"              event = "write_aio"
    state = "2"                     state = "1"
    errno = "5"                     new_state = "2"
    sector = "100"
    once = "on"
    immediately = "off"
    iotype = "read"

Each request causes an event before it is looked at: ``read_aio``, ``write_aio`` with ``pwritev``, ``pwritev_zero``,
``flush_to_os`` with ``flush_to_disk``; ``none`` happens once, when the node is opened. Rules of an event in the present
state take effect together: an injected error holds for the requests that follow, of its ``iotype`` and touching its
``sector``, until another event injects others (``once``: for the first of them). The first state is 1.
Not implemented: events of image formats and of copy-on-read, which nothing here causes; alignment and size limits.
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, NamedTuple

from vmmd.block.base import BlockNode, NodeConfig
from vmmd.errors import BackendError, UsageError
from vmmd.units import SECTOR_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmmd.block.file import FileNode
    from vmmd.block.lock import LockState
    from vmmd.core.backend import IoDone
    from vmmd.core.notify import LoopPort

EVENTS = ("none", "read_aio", "write_aio", "pwritev", "pwritev_zero", "flush_to_os", "flush_to_disk")
IO_TYPES = ("read", "write", "write-zeroes", "discard", "flush")
FIRST_STATE = 1
ANY_STATE = 0
CONFIG_BYTES_MAX = 1 << 20
RULES_MAX = 1024

_GROUP = re.compile(r"\[([^\]]+)\]\s*")
_SETTING = re.compile(r'([A-Za-z0-9_-]+)\s+=\s+"([^"]*)"\s*')
_KEYS = {
    "inject-error": ("event", "state", "errno", "sector", "once", "immediately", "iotype"),
    "set-state": ("event", "state", "new_state"),
}


class Rule(NamedTuple):
    """One group of the file. ``new_state`` is None for one that injects an error."""

    event: str
    state: int
    new_state: int | None = None
    error: int = errno.EIO
    sector: int | None = None
    once: bool = False
    immediately: bool = False
    io_type: str | None = None


def parse(text: str) -> list[Rule]:
    """The rules of a configuration file. Raises UsageError, which names the line."""
    rules: list[tuple[str, dict[str, str], int]] = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        # QEMU-COMPAT: the sentences
        if group := _GROUP.fullmatch(stripped):
            if group[1] not in _KEYS:
                raise _wrong(f"There is no option group '{group[1]}'", number, "groups are " + ", ".join(_KEYS))
            if len(rules) >= RULES_MAX:
                raise _wrong("too many rules", number, f"{RULES_MAX} at most")
            rules.append((group[1], {}, number))
        elif not rules:
            raise _wrong("no group defined", number, "a file begins with [inject-error] or [set-state]")
        elif (setting := _SETTING.fullmatch(stripped)) and setting[1] in _KEYS[rules[-1][0]]:
            rules[-1][1][setting[1]] = setting[2]
        else:
            keys = ", ".join(_KEYS[rules[-1][0]])
            raise _wrong(f"Invalid parameter '{stripped}'", number, f'a line is KEY = "VALUE" with a KEY of {keys}')
    return [_rule(*each) for each in rules]


def _wrong(sentence: str, number: int, hint: str) -> UsageError:
    return UsageError(sentence, f"blkdebug config, line {number}: {hint}")


def _rule(group: str, values: dict[str, str], number: int) -> Rule:
    """A checked rule."""

    def integer(key: str, default: int) -> int:
        text = values.get(key, str(default))
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise _wrong(
                f"Parameter '{key}' expects a number", number, f"in the group that starts there it is '{text}'"
            )
        return int(text)

    def word(key: str, choices: tuple[str, ...]) -> str:
        text = values.get(key, choices[0])
        if text not in choices:
            raise _wrong(f"Parameter '{key}' does not accept value '{text}'", number, "it takes " + ", ".join(choices))
        return text

    if "event" not in values:
        raise _wrong("Missing event name for rule", number, "an event says when the rule takes effect")
    event = word("event", EVENTS)
    state = integer("state", ANY_STATE)
    if group == "set-state":
        return Rule(event, state, integer("new_state", ANY_STATE))
    switch = ("off", "on")
    return Rule(
        event,
        state,
        error=integer("errno", errno.EIO),
        sector=integer("sector", 0) if "sector" in values else None,
        once=word("once", switch) == "on",
        immediately=word("immediately", switch) == "on",
        io_type=word("iotype", IO_TYPES) if "iotype" in values else None,
    )


def read_config(path: str) -> list[Rule]:
    """The rules in a file; none without one. Blocks. Raises UsageError, BackendError."""
    if not path:
        return []
    try:
        with open(path, "rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        # QEMU-COMPAT: the sentence
        raise BackendError.from_os("Could not read blkdebug config file", error) from error
    if len(data) > CONFIG_BYTES_MAX:
        raise UsageError("Could not read blkdebug config file", f"'{path}' is larger than {CONFIG_BYTES_MAX} bytes")
    return parse(data.decode("utf-8", "replace"))


class BlkdebugNode(BlockNode):
    """A filter over the node ``image``."""

    driver = "blkdebug"

    def __init__(self, config: NodeConfig, loop: LoopPort, config_path: str, image: BlockNode) -> None:
        super().__init__(config)
        self.file = image
        self.config_path = config_path
        self.request_alignment = image.request_alignment
        self.writes_through = image.writes_through
        self.supports_discard = config.discard and image.supports_discard
        self._loop = loop
        self._rules: list[Rule] = []
        self._injected: list[Rule] = []
        self._state = FIRST_STATE

    @property
    def may_block(self) -> bool:
        return True

    def open(self) -> None:
        self._rules = read_config(self.config_path)
        self._image.on_resize(self.tell_resized)
        self._happens("none")

    def close(self) -> None:
        self._image.forget_resize(self.tell_resized)

    @property
    def _image(self) -> BlockNode:
        assert self.file is not None  # given to the constructor
        return self.file

    @property
    def filename(self) -> str:
        return f"blkdebug:{self.config_path}:{self._image.filename}"

    @property
    def options_shown(self) -> dict[str, object]:
        return {**super().options_shown, "config": self.config_path, "image": self._image.options_shown}

    @property
    def actual_size(self) -> int | None:
        return self._image.actual_size

    @property
    def size_bytes(self) -> int:
        return self._image.size_bytes

    def resizable(self, size_bytes: int) -> tuple[FileNode, int]:
        return self._image.resizable(size_bytes)

    def set_lock(self, wanted: LockState) -> None:
        self._image.set_lock(wanted)

    # -- rules ---------------------------------------------------------------------------------------------------

    def _happens(self, event: str) -> None:
        """Rules of the event in the state as it was before."""
        matching = [each for each in self._rules if each.event == event and each.state in (ANY_STATE, self._state)]
        injected = [each for each in matching if each.new_state is None]
        if injected:
            self._injected = injected
        for each in matching:
            if each.new_state is not None:
                self._state = each.new_state

    def _fails(self, io_type: str, offset: int, length: int, done: IoDone) -> bool:
        """True when the request is answered with an injected error."""
        for rule in self._injected:
            touches = rule.sector is None or offset <= rule.sector * SECTOR_BYTES < offset + length
            if rule.io_type in (None, io_type) and touches:
                if rule.once:
                    self._injected.remove(rule)
                    self._rules.remove(rule)
                if rule.immediately:
                    done(rule.error)
                else:
                    self._loop.post(done, rule.error)
                return True
        return False

    # -- requests ------------------------------------------------------------------------------------------------

    def readv(self, offset: int, buffers: Sequence[memoryview], done: IoDone) -> None:
        self._happens("read_aio")
        if not self._fails("read", offset, sum(map(len, buffers)), done):
            self._image.readv(offset, buffers, done)

    def writev(self, offset: int, buffers: Sequence[memoryview], done: IoDone) -> None:
        self._happens("write_aio")
        self._happens("pwritev")
        if not self._fails("write", offset, sum(map(len, buffers)), done):
            self._image.writev(offset, buffers, done)

    def flush(self, done: IoDone) -> None:
        self._happens("flush_to_os")
        self._happens("flush_to_disk")
        if not self._fails("flush", 0, 0, done):
            self._image.flush(done)

    def discard(self, offset: int, length: int, done: IoDone) -> None:
        if not self._fails("discard", offset, length, done):
            self._image.discard(offset, length, done)

    def write_zeroes(self, offset: int, length: int, may_unmap: bool, done: IoDone) -> None:
        self._happens("pwritev_zero")
        if not self._fails("write-zeroes", offset, length, done):
            self._image.write_zeroes(offset, length, may_unmap, done)
