# SPDX-License-Identifier: Apache-2.0
"""The tree of errors. ``str(error)`` is the sentence that a QMP client or the command line shows.

    VmmdError                    GenericError
    ├─ UsageError                GenericError      a bad option, property or argument
    ├─ StateError                GenericError      wrong run state
    ├─ DeviceNotFoundError       DeviceNotFound
    ├─ DeviceNotActiveError      DeviceNotActive
    ├─ MissingKvmCapError        KVMMissingCap
    ├─ UnknownCommandError       CommandNotFound
    ├─ BackendError              GenericError      a host file, socket or ioctl refused
    └─ InternalError             GenericError      a bug of vmmd

Guest mistakes are no errors of this tree: a device counts and answers them (``core.memory.GuestAddressError``).
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: a name is compared with others up to this length: comparing long ones takes long
_COMPARED_CHARS = 100


class VmmdError(Exception):
    """Root of every error that is shown to a user. ``desc`` is a sentence, ``hint`` says what to change."""

    qmp_class = "GenericError"

    def __init__(self, desc: str, hint: str | None = None) -> None:
        super().__init__(desc)
        self.desc = desc
        self.hint = hint

    def named(self, option: str) -> VmmdError:
        """This error with the option it belongs to in front: ``-drive id=d: Could not open …``."""
        if not self.desc.startswith("-"):
            self.desc = f"{option}: {self.desc}"
        return self

    def __str__(self) -> str:
        return self.desc if self.hint is None else f"{self.desc}; {self.hint}"


@contextmanager
def named(option: str) -> Iterator[None]:
    """Errors inside say which option they belong to."""
    try:
        yield
    except VmmdError as error:
        error.named(option)
        raise


class UsageError(VmmdError):
    """A bad option, property or argument; names option, value and accepted form."""


class StateError(VmmdError):
    """The request is not legal in the present run state."""


class DeviceNotFoundError(VmmdError):
    qmp_class = "DeviceNotFound"


class DeviceNotActiveError(VmmdError):
    qmp_class = "DeviceNotActive"


class MissingKvmCapError(VmmdError):
    qmp_class = "KVMMissingCap"


class UnknownCommandError(VmmdError):
    qmp_class = "CommandNotFound"


class BackendError(VmmdError):
    """A host resource refused: ``Could not open '<path>': <strerror>``."""

    @classmethod
    def from_os(cls, doing: str, cause: OSError) -> BackendError:
        """The error for an OSError met while ``doing`` (``Could not open 'x'``)."""
        reason = os.strerror(cause.errno) if cause.errno else str(cause)
        return cls(f"{doing}: {reason}")


class InternalError(VmmdError):
    """A bug of vmmd; the log has the traceback."""


def did_you_mean(name: str, candidates: Iterable[str]) -> str | None:
    """A hint for a name that is not there, or None when none is like it."""
    near = nearest(name, list(candidates))
    return f"did you mean '{near}'?" if near else None


def nearest(name: str, candidates: list[str] | tuple[str, ...]) -> str | None:
    """The candidate most like ``name``, or None; for «did you mean» hints."""
    if len(name) > _COMPARED_CHARS:
        return None
    import difflib

    found = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    return found[0] if found else None
