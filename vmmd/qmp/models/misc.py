# SPDX-License-Identifier: Apache-2.0
"""QAPI types of the miscellaneous commands."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict


class NameInfo(TypedDict):
    """The guest's name; absent when there is none."""

    name: NotRequired[str]


AddfdInfo = TypedDict("AddfdInfo", {"fdset-id": int, "fd": int})
"""Where ``add-fd`` has put a descriptor, and its number in this process."""


class FdsetFdInfo(TypedDict):
    """A descriptor of an fd set."""

    fd: int
    opaque: NotRequired[str]


FdsetInfo = TypedDict("FdsetInfo", {"fdset-id": int, "fds": list[FdsetFdInfo]})
"""An fd set; without descriptors while something that was opened through it is open."""


CommandLineParameterType = Literal["string", "boolean", "number", "size"]


class CommandLineParameterInfo(TypedDict):
    """A key of an option."""

    name: str
    type: CommandLineParameterType
    help: NotRequired[str]
    default: NotRequired[str]


class CommandLineOptionInfo(TypedDict):
    """An option; without parameters, its keys are told by -OPTION help."""

    option: str
    parameters: list[CommandLineParameterInfo]


IOThreadInfo = TypedDict(
    "IOThreadInfo",
    {
        "id": str,
        "thread-id": int,
        "poll-max-ns": int,
        "poll-grow": int,
        "poll-shrink": int,
        "aio-max-batch": int,
    },
)
"""An I/O thread."""
