# SPDX-License-Identifier: Apache-2.0
"""One QMP session without I/O: negotiation, the shape of requests, replies (QMP specification §2.2-2.4).

    state         qmp_capabilities         other known command          events
    NEGOTIATING   → COMMAND                CommandNotFound              not delivered
    COMMAND       CommandNotFound          runs                         delivered

Order of the checks, as QEMU's: members of the request, the session's state, the command, out-of-band, arguments.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from vmmd import QEMU_COMPAT_VERSION, __version__
from vmmd.errors import UnknownCommandError, VmmdError
from vmmd.qmp.passed_fds import PassedFds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vmmd.core.fdsets import FdBudget
    from vmmd.qmp.models.control import VersionInfo
    from vmmd.qmp.registry import CommandSpec

#: what the greeting offers
CAPABILITIES = ("oob",)
#: the version of QEMU whose interface vmmd speaks; libvirt reads it
_MAJOR, _MINOR, _MICRO = QEMU_COMPAT_VERSION
#: free text that tells who really answers
PACKAGE = f"vmmd-{__version__}"

NEGOTIATE = "qmp_capabilities"
#: stands for «the request has no id»
NO_ID = object()
_NO_ARGUMENTS: dict[str, object] = {}


class State(enum.Enum):
    NEGOTIATING = 0
    COMMAND = 1


#: why a command is refused in a state, by (state, is it qmp_capabilities?); others are admitted
_REFUSALS: dict[tuple[State, bool], str] = {
    (State.NEGOTIATING, False): "Expecting capabilities negotiation with 'qmp_capabilities'",
    (State.COMMAND, True): "Capabilities negotiation is already complete, command ignored",
}


class Request:
    """A command that passed the session's checks."""

    __slots__ = ("arguments", "id", "oob", "spec")

    def __init__(self, spec: CommandSpec, arguments: dict[str, object], id_: object, oob: bool) -> None:
        self.spec = spec
        self.arguments = arguments
        self.id = id_
        self.oob = oob


class QmpSession:
    """State of one client."""

    __slots__ = ("_commands", "fds", "oob", "state", "when_left")

    def __init__(self, commands: Mapping[str, CommandSpec], budget: FdBudget) -> None:
        self._commands = commands
        self.state = State.NEGOTIATING
        self.oob = False
        self.fds = PassedFds(budget)
        #: calls its argument, perhaps more than once, when nobody waits for replies any more; returns what undoes it.
        #: For a command that waits for others without limit
        self.when_left: Callable[[Callable[[], None]], Callable[[], None]] = _never_left

    @property
    def negotiated(self) -> bool:
        """True when events are to be delivered."""
        return self.state is State.COMMAND

    def enable(self, capabilities: list[str]) -> None:
        """qmp_capabilities: enter command mode. Raises UnknownCommandError when the session is in it already."""
        if self.state is not State.NEGOTIATING:
            raise UnknownCommandError(_REFUSALS[self.state, True])
        self.oob = "oob" in capabilities
        self.state = State.COMMAND

    def receive(self, message: object) -> Request | dict[str, object]:
        """Check one message: the request to run, or the error reply."""
        id_: object = NO_ID
        try:
            if type(message) is not dict:
                raise VmmdError("QMP input must be a JSON object")
            id_ = message.get("id", NO_ID)
            return self._check(message, id_)
        except VmmdError as error:
            return error_reply(error.qmp_class, str(error), id_)

    def _check(self, message: dict[str, object], id_: object) -> Request:
        name: object = None
        oob = False
        arguments: dict[str, object] = _NO_ARGUMENTS
        for key, value in message.items():
            if key == "execute" or (key == "exec-oob" and self.oob):
                if type(value) is not str:
                    raise VmmdError(f"QMP input member '{key}' must be a string")
                if name is not None:
                    raise VmmdError("QMP input member 'execute' clashes with 'exec-oob'")
                name = value
                oob = key == "exec-oob"
            elif key == "arguments":
                if type(value) is not dict:
                    raise VmmdError("QMP input member 'arguments' must be an object")
                arguments = value
            elif key != "id":
                raise VmmdError(f"QMP input member '{key}' is unexpected")
        if name is None:
            raise VmmdError("QMP input lacks member 'execute'")
        return self._admit(str(name), arguments, id_, oob)

    def _admit(self, name: str, arguments: dict[str, object], id_: object, oob: bool) -> Request:
        if self.state is State.NEGOTIATING and name != NEGOTIATE:
            raise UnknownCommandError(_REFUSALS[self.state, False])
        spec = self._commands.get(name)
        if spec is None:
            from vmmd.qmp.refusals import unknown_command

            raise unknown_command(name, self._commands)
        if oob and not spec.oob:
            raise VmmdError(f"The command {name} does not support OOB")
        return Request(spec, arguments, id_, oob)


def _never_left(_callback: Callable[[], None]) -> Callable[[], None]:
    """Of a session without a client of its own."""
    return lambda: None


def version_info() -> VersionInfo:
    """The reply of query-version, which the greeting has too."""
    return {"qemu": {"micro": _MICRO, "minor": _MINOR, "major": _MAJOR}, "package": PACKAGE}


def greeting() -> dict[str, object]:
    """The first message of a connection."""
    return {"QMP": {"version": version_info(), "capabilities": list(CAPABILITIES)}}


def greeting_bytes() -> bytes:
    """``greeting`` as it is sent (not pretty), made without importing a JSON encoder."""
    offered = ", ".join(f'"{each}"' for each in CAPABILITIES)
    text = (
        f'{{"QMP": {{"version": {{"qemu": {{"micro": {_MICRO}, "minor": {_MINOR}, "major": {_MAJOR}}}, '
        f'"package": "{PACKAGE}"}}, "capabilities": [{offered}]}}}}\r\n'
    )
    return text.encode("ascii")


def success_reply(value: object, id_: object) -> dict[str, object]:
    """A success reply; ``id_`` NO_ID leaves the id out."""
    return {"return": value} if id_ is NO_ID else {"return": value, "id": id_}


def error_reply(error_class: str, desc: str, id_: object = NO_ID) -> dict[str, object]:
    """An error reply, id first as QEMU has it."""
    error = {"class": error_class, "desc": desc}
    return {"error": error} if id_ is NO_ID else {"id": id_, "error": error}
