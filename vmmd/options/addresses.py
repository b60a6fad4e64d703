# SPDX-License-Identifier: Apache-2.0
"""Socket addresses as QAPI has them (``addr.type=inet,addr.host=…``, ``{"addr": {"type": "inet", …}}``), the older form
``HOST:PORT``, and what every address is checked for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

from vmmd.core.props import BOOL, PATH, STR, U16, PropType, prop
from vmmd.errors import UsageError
from vmmd.options.fields import ONLY_OFF, OptionSet, listed, shown, unknown_name
from vmmd.units import UNIX_PATH_BYTES

if TYPE_CHECKING:
    from vmmd.options.fields import Items

PORT_MAX = 0xFFFF


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError
    return text


#: of a host or service: the resolver would read it up to a NUL
NET_NAME: PropType[str] = PropType("str", "a name without NUL", _without_nul, json_kinds=())


class SocketAddress(OptionSet):
    """One address; ``type`` selects the class. What a class does not declare is as if it was not given."""

    type: ClassVar[str] = ""
    path: Any = None
    abstract: Any = False
    tight: Any = True
    host: Any = None
    port: Any = None
    to: Any = None
    ipv4: Any = None
    ipv6: Any = None
    numeric: Any = False
    keep_alive: Any = False
    fd: Any = None


class InetAddress(SocketAddress):
    """TCP or UDP."""

    type = "inet"
    host = prop(NET_NAME, None, "host name or address; empty: any", required=True)
    port = prop(NET_NAME, None, "port or name of a service", required=True)
    numeric = prop(BOOL, False, "host is an address, no name")
    to = prop(U16, None, "a server listens on the first free port from port to this one")
    ipv4 = prop(BOOL, None, "use IPv4")
    ipv6 = prop(BOOL, None, "use IPv6")
    keep_alive = prop(BOOL, False, "let the kernel look whether the peer is still there", wire="keep-alive")
    mptcp = prop(BOOL, False, "multipath TCP")

    later: ClassVar = {"mptcp": ONLY_OFF}

    def check(self, where: str) -> None:
        super().check(where)
        check_inet(where, self.port, self.ipv4, self.ipv6)


class UnixAddress(SocketAddress):
    """A UNIX socket."""

    type = "unix"
    path = prop(PATH, None, "the socket's file, or its abstract name", required=True)
    abstract = prop(BOOL, False, "the path is in the abstract name space")
    tight = prop(BOOL, True, "an abstract name without padding")

    def check(self, where: str) -> None:
        super().check(where)
        check_unix_path(where, self.path)


class FdAddress(SocketAddress):
    """A socket that vmmd was started with, or that a monitor's client has sent."""

    type = "fd"
    fd = prop(STR, None, "number of an inherited descriptor, or name of a passed one", required=True, wire="str")


ADDRESSES: dict[str, type[SocketAddress]] = {cls.type: cls for cls in (InetAddress, UnixAddress, FdAddress)}
ADDRESSES_LATER = ("vsock",)


def _no_text_address(text: str) -> Any:
    raise ValueError(text)


#: an address by its own keys
SOCKET_ADDRESS: PropType[Any] = PropType(
    "SocketAddress", "an address by its keys: type=, …", _no_text_address, json_kinds=(dict,), from_json=lambda v: v
)


def read_address(items: Items, key: str, where: str, *, is_json: bool) -> SocketAddress:
    """The address whose keys, without ``key.``, are ``items``. Raises UsageError."""
    word = next((value for name, value in reversed(items) if name == "type"), None)
    if word is None:
        # QEMU-COMPAT: the phrase
        raise UsageError(f"{where}: Parameter '{key}.type' is missing", "it is " + " or ".join(ADDRESSES))
    if word in ADDRESSES_LATER:
        raise UsageError(f"{where},{key}.type={word}: not available in this version", "it is " + " or ".join(ADDRESSES))
    cls = ADDRESSES.get(word) if isinstance(word, str) else None
    if cls is None:
        # QEMU-COMPAT: the phrase
        what = f"Parameter '{key}.type' does not accept value '{shown(word)}'"
        raise unknown_name(f"{where},{key}.type={shown(word)}", str(word), ADDRESSES, what)
    made = cls()
    for name, _value in items:
        if name != "type" and name not in cls.declared:
            # QEMU-COMPAT: the phrase
            sentence = f"{where}: Parameter '{key}.{shown(name)}' is unexpected"
            raise UsageError(sentence, "known are: " + listed(cls.declared))
    made.take([item for item in items if item[0] != "type"], where, is_json=is_json)
    for declared in cls.each():
        if declared.required and declared.wire_name not in made.given:
            # QEMU-COMPAT: the phrase
            raise UsageError(f"{where}: Parameter '{key}.{declared.wire_name}' is missing", declared.doc)
    made.check(where)
    unavailable = made.first_unavailable()
    if unavailable is not None:
        raise UsageError(f"{where},{key}.{unavailable}: not available in this version")
    return made


def host_and_port(text: str, where: str) -> InetAddress:
    """``HOST:PORT``, for IPv4. Raises UsageError."""
    host, colon, port = text.partition(":")
    # QEMU-COMPAT: both sentences
    if not colon:
        sentence = f"{where}: host address '{shown(text)}' doesn't contain ':' separating host from port"
        raise UsageError(sentence, "it takes HOST:PORT; HOST may be empty: any address")
    if not (port.isascii() and port.isdigit() and len(port) <= len(str(PORT_MAX)) and int(port) <= PORT_MAX):
        raise UsageError(f"{where}: port number '{shown(port)}' is invalid", f"it is a number up to {PORT_MAX}")
    return inet_address(host, port)


def inet_address(host: str, port: str | None) -> InetAddress:
    """An IPv4 address that was written in another form."""
    made = InetAddress()
    made.values |= {"host": host, "port": port, "ipv4": True}
    return made


def given_socket(fd: str) -> FdAddress:
    """A descriptor that was named in another form."""
    made = FdAddress()
    made.values["fd"] = fd
    return made


def check_unix_path(where: str, path: str) -> None:
    """It fits into the kernel's structure. Raises UsageError."""
    # an abstract name has its leading NUL, a path its final one
    if not 0 < len(os.fsencode(path)) < UNIX_PATH_BYTES:
        # QEMU-COMPAT: the phrase
        what = f"UNIX socket path '{shown(path)}' is too " + ("long" if path else "short")
        raise UsageError(f"{where}: {what}", f"Path must be less than {UNIX_PATH_BYTES} bytes")


def check_inet(where: str, port: str | None, ipv4: bool | None, ipv6: bool | None) -> None:
    """The port is one, and a protocol is left. Raises UsageError."""
    if port is not None and port.isdigit() and int(port[:6]) > PORT_MAX:
        what = f"{where}: 'port' takes the name of a service or a number up to {PORT_MAX}"
        raise UsageError(what, f"it is {shown(port)}")
    if ipv4 is False and ipv6 is False:
        raise UsageError(f"{where}: ipv4=off and ipv6=off leave no protocol")


def check_port_range(where: str, port: str | None, to: int | None, *, server: bool) -> None:
    """``to=``. Raises UsageError."""
    if to is not None:
        numeric = port is not None and port.isascii() and port.isdigit()
        if not (numeric and server and int(port or 0) <= to):
            raise UsageError(f"{where}: 'to' needs server=on and a numeric port= not above it")
