# SPDX-License-Identifier: Apache-2.0
"""QAPI types of character devices. What they may hold is declared and checked in ``options.backends``; here is QMP's
nested shape of it, without what this version does not have."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from typing_extensions import TypedDict

from vmmd.qmp.models.unions import Tagged

ChardevInfo = TypedDict("ChardevInfo", {"label": str, "filename": str, "frontend-open": bool})
"""A character device; ``filename`` is a description of its peer."""

DataFormat = Literal["utf8", "base64"]


class ChardevBackendInfo(TypedDict):
    """A kind of character device."""

    name: str


class ChardevReturn(TypedDict):
    """What was made: the path of a pseudo-terminal."""

    pty: NotRequired[str]


class ChardevCommon(TypedDict):
    """What every kind takes: a file that gets a copy of all output."""

    logfile: NotRequired[str]
    logappend: NotRequired[bool]


class ChardevFile(ChardevCommon):
    """Output to a file."""

    out: str
    append: NotRequired[bool]


class ChardevStdio(ChardevCommon):
    """Standard input and output."""

    signal: NotRequired[bool]


class ChardevRingbuf(ChardevCommon):
    """The last ``size`` bytes of output in memory."""

    size: NotRequired[int]


class UnixSocketAddress(TypedDict):
    """A UNIX socket."""

    path: str
    abstract: NotRequired[bool]
    tight: NotRequired[bool]


class InetSocketAddress(TypedDict):
    """A TCP address; a server takes the first free port from ``port`` to ``to``."""

    host: str
    port: str
    to: NotRequired[int]
    ipv4: NotRequired[bool]
    ipv6: NotRequired[bool]


class FdName(TypedDict):
    """A file descriptor by the name that ``getfd`` gave it."""

    str: str


class UnixAddress(TypedDict):
    """A UNIX socket."""

    type: Literal["unix"]
    data: UnixSocketAddress


class InetAddress(TypedDict):
    """A TCP address."""

    type: Literal["inet"]
    data: InetSocketAddress


class FdAddress(TypedDict):
    """A socket that this session was sent."""

    type: Literal["fd"]
    data: FdName


SocketAddress = Annotated[UnixAddress | InetAddress | FdAddress, Tagged("type")]


class ChardevSocket(ChardevCommon):
    """A stream socket."""

    addr: SocketAddress
    server: NotRequired[bool]
    wait: NotRequired[bool]
    nodelay: NotRequired[bool]
    reconnect: NotRequired[int]


class PlainBackend(TypedDict):
    """A kind without options of its own."""

    type: Literal["null", "pty"]
    data: ChardevCommon


class FileBackend(TypedDict):
    """A file."""

    type: Literal["file"]
    data: ChardevFile


class StdioBackend(TypedDict):
    """Standard input and output."""

    type: Literal["stdio"]
    data: ChardevStdio


class RingbufBackend(TypedDict):
    """A ring buffer; ``memory`` is its old name."""

    type: Literal["ringbuf", "memory"]
    data: ChardevRingbuf


class SocketBackend(TypedDict):
    """A socket."""

    type: Literal["socket"]
    data: ChardevSocket


ChardevBackend = Annotated[PlainBackend | FileBackend | StdioBackend | RingbufBackend | SocketBackend, Tagged("type")]
