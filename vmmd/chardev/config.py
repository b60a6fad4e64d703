# SPDX-License-Identifier: Apache-2.0
"""The options of one ``-chardev``, checked before anything is opened.

``check`` takes any object whose attributes are named like the options (``options.models.ChardevOptions``) and raises
UsageError with QEMU's sentence where it has one. It has no side effect.
"""

from __future__ import annotations

import os

from vmmd.errors import UsageError

#: backends of this version
KINDS = ("file", "null", "pty", "ringbuf", "socket", "stdio")

#: backends that QEMU has and this version does not
LATER = (
    "braille", "console", "dbus", "hub", "memory", "msmouse", "mux", "parallel", "parport", "pipe", "serial",
    "spiceport", "spicevmc", "testdev", "tty", "udp", "vc", "vdagent", "qemu-vdagent", "wctablet",
)  # fmt: skip

#: options of any backend that are refused when switched on
_REFUSED = ("mux", "telnet", "tn3270", "websocket", "tls_creds", "tls_authz", "input_path")

#: size of sun_path in a UNIX socket address, <sys/un.h>
UNIX_PATH_BYTES = 108


class ChardevConfig:
    """Values of one character device; None means «not given»."""

    __slots__ = (
        "abstract", "append", "fd", "host", "id", "ipv4", "ipv6", "kind", "logappend", "logfile", "nodelay", "path",
        "port", "reconnect_s", "server", "signal", "size_bytes", "tight", "to_port", "wait",
    )  # fmt: skip

    def __init__(self, kind: str, id_: str) -> None:
        self.kind = kind
        self.id = id_
        self.path: str | None = None
        self.append = False
        self.logfile: str | None = None
        self.logappend = False
        self.signal = True
        self.size_bytes = 65536
        self.host: str | None = None
        self.port: str | None = None
        self.to_port: int | None = None
        self.fd: str | None = None
        self.server = False
        self.wait = False
        self.reconnect_s = 0
        self.abstract = False
        self.tight = True
        self.ipv4: bool | None = None
        self.ipv6: bool | None = None
        self.nodelay = False


def check(options: object) -> ChardevConfig:
    """The checked form of ``options``. Raises UsageError."""
    kind = _text(options, "backend") or _text(options, "kind") or ""
    id_ = _text(options, "id")
    if not id_:
        raise UsageError("chardev: no id specified", "add id=NAME")
    if kind in LATER:
        raise UsageError(f"chardev {id_}: the backend '{kind}' is not available in this version")
    if kind not in KINDS:
        raise UsageError(f"'{kind}' is not a valid char driver name", "known are " + ", ".join(KINDS))
    for name in _REFUSED:
        if getattr(options, name, None):
            raise UsageError(f"chardev {id_}: {name.replace('_', '-')}= is not available in this version")
    config = ChardevConfig(kind, id_)
    config.logfile = _text(options, "logfile")
    config.logappend = bool(getattr(options, "logappend", None))
    _check_kind(config, options)
    return config


def _check_kind(config: ChardevConfig, options: object) -> None:
    kind = config.kind
    if kind == "socket":
        _check_socket(config, options)
    elif kind == "file":
        config.path = _text(options, "path")
        config.append = bool(getattr(options, "append", None))
        if not config.path:
            raise UsageError("chardev: file: no filename given", "add path=FILE")
    elif kind == "ringbuf":
        config.size_bytes = _ringbuf_size(options)
    elif kind == "stdio":
        config.signal = getattr(options, "signal", None) is not False
    elif _text(options, "path"):
        raise UsageError(f"chardev {config.id}: {kind} takes no path=")


def _ringbuf_size(options: object) -> int:
    size = getattr(options, "size", None)
    size = 65536 if size is None else int(size)
    if size <= 0 or size & (size - 1):
        raise UsageError("size of ringbuf chardev must be power of two", f"size={size} is not")
    if size > 1 << 30:
        raise UsageError(f"chardev ringbuf: size={size} is too large", "at most 1G")
    return size


def _text(options: object, name: str) -> str | None:
    value = getattr(options, name, None)
    return None if value is None else str(value)


def _check_socket(config: ChardevConfig, options: object) -> None:
    config.path = _text(options, "path")
    config.host = _text(options, "host")
    config.port = _text(options, "port")
    config.fd = _text(options, "fd")
    where = f"chardev {config.id}"
    given = [name for name in ("path", "fd", "host") if getattr(config, name) is not None]
    if len(given) != 1:
        raise UsageError(f"{where}: exactly one of 'path', 'fd' or 'host' is required", _given_words(given))
    config.server = bool(getattr(options, "server", None))
    wait = getattr(options, "wait", None)
    if wait is not None and not config.server:
        raise UsageError("'wait' option is incompatible with socket in client connect mode", f"{where}: add server=on")
    config.wait = config.server and wait is not False
    config.reconnect_s = int(getattr(options, "reconnect", None) or 0)
    if config.reconnect_s and config.server:
        raise UsageError("'reconnect' option is incompatible with socket in server listen mode", where)
    if config.reconnect_s and config.fd is not None:
        raise UsageError(f"{where}: reconnect= needs an address to connect to, fd= has none")
    if not 0 <= config.reconnect_s <= 86400:
        raise UsageError(f"{where}: reconnect={config.reconnect_s} is not a number of seconds from 0 to 86400")
    config.abstract = bool(getattr(options, "abstract", None))
    config.tight = getattr(options, "tight", None) is not False
    config.nodelay = getattr(options, "nodelay", None) is True or getattr(options, "delay", None) is False
    config.ipv4 = getattr(options, "ipv4", None)
    config.ipv6 = getattr(options, "ipv6", None)
    if config.host is not None:
        _check_inet(config, options, where)
    elif config.path is not None:
        _check_unix(config)


def _given_words(given: list[str]) -> str:
    return "none is given" if not given else " and ".join(f"{name}=" for name in given) + " are given"


def _check_inet(config: ChardevConfig, options: object, where: str) -> None:
    if not config.port:
        raise UsageError("chardev: socket: no port given", f"{where}: add port=NUMBER")
    if config.port.isascii() and config.port.isdigit() and int(config.port) > 0xFFFF:
        raise UsageError(f"{where}: port={config.port} is not a port number from 0 to 65535")
    to_port = getattr(options, "to", None)
    if to_port is None:
        return
    config.to_port = int(to_port)
    if not config.server or not config.port.isdigit() or not int(config.port) <= config.to_port <= 0xFFFF:
        raise UsageError(f"{where}: to={to_port} needs server=on and a numeric port= not above it")


def _check_unix(config: ChardevConfig) -> None:
    path = os.fsencode(config.path or "")
    # an abstract name has its leading NUL, a path its final one
    if len(path) >= UNIX_PATH_BYTES:
        raise UsageError(
            f"UNIX socket path '{config.path}' is too long", f"Path must be less than {UNIX_PATH_BYTES} bytes"
        )
    if not path:
        raise UsageError(f"chardev {config.id}: path= is empty")
