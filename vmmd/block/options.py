# SPDX-License-Identifier: Apache-2.0
"""Reads ``-drive`` and ``-blockdev`` for the graph: cache modes, file names. No side effects.

What this version lacks (formats, I/O limits, …) is refused where options are declared (``options.availability``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmmd.errors import UsageError

if TYPE_CHECKING:
    from vmmd.block.base import NodeConfig

#: -drive cache= -> writeback, direct, no-flush
CACHE_MODES: dict[str, tuple[bool, bool, bool]] = {
    "none": (True, True, False),
    "writeback": (True, False, False),
    "writethrough": (False, False, False),
    "directsync": (False, True, False),
    "unsafe": (True, False, True),
}

#: keys of a node, and their names on the command line, that a node defined inside it takes over
INHERITED = {
    "read_only": "read-only",
    "cache_direct": "cache.direct",
    "cache_no_flush": "cache.no-flush",
    "force_share": "force-share",
}

NULL_DRIVERS = ("null-co", "null-aio")
FILE_DRIVERS = ("file", "host_device")
FAULT_DRIVER = "blkdebug"  # blkdebug:CONFIG:IMAGE


class CacheMode(NamedTuple):
    writeback: bool
    direct: bool
    no_flush: bool


class FileName(NamedTuple):
    """What a ``file=`` text means: a protocol driver ("" for a path, to be looked at) and what follows."""

    protocol: str
    path: str


def cache_mode(options: object) -> CacheMode:
    """From ``cache=`` and the ``cache.*`` keys, which win."""
    writeback, direct, no_flush = CACHE_MODES[getattr(options, "cache", None) or "writeback"]
    given = [getattr(options, f"cache_{name}", None) for name in ("writeback", "direct", "no_flush")]
    return CacheMode(
        *(
            now if value is None else bool(value)
            for now, value in zip((writeback, direct, no_flush), given, strict=True)
        )
    )


def split_file_name(text: str, where: str) -> FileName:
    """Recognize ``protocol:`` in front; a path with ':' is written with a directory (``./a:b``). Raises UsageError."""
    prefix, colon, rest = text.partition(":")
    if not colon or not prefix or "/" in prefix:
        return FileName("", text)
    if prefix in (*FILE_DRIVERS, FAULT_DRIVER):
        return FileName(prefix, rest)
    if prefix in NULL_DRIVERS:
        if rest != "//":
            # QEMU-COMPAT: QEMU's sentence
            raise UsageError(f"{where}: The only allowed filename for this driver is '{prefix}://'")
        return FileName(prefix, "")
    raise UsageError(f"{where}: Unknown protocol '{prefix}'", f"write ./{text} if it is the name of a file")


def check_format(name: str, where: str) -> None:
    """Raises UsageError unless vmmd has the driver."""
    known = ("raw", *FILE_DRIVERS, *NULL_DRIVERS, FAULT_DRIVER)
    if name not in known:
        raise UsageError(f"Unknown driver '{name}'", f"{where}: known are {', '.join(known)}")


def check_drive(options: object, where: str) -> None:
    """What ``-drive`` may ask for and vmmd lacks. Raises UsageError."""
    check_common(options)
    if getattr(getattr(options, "protocol", None), "driver", None) in NULL_DRIVERS:
        return  # any key that the driver has
    for key, _ in getattr(options, "file_options", ()):
        if key not in ("filename", "locking", "driver", "node-name", "aio"):
            raise UsageError(f"{where}: file.{key}= is not available in this version")


def check_common(options: object) -> None:
    """Keys of both options. Raises UsageError."""
    if getattr(options, "force_share", None) and not getattr(options, "read_only", None):
        # QEMU-COMPAT: QEMU's sentence
        raise UsageError("force-share=on can only be used with read-only images")


def is_given(options: object, wire_name: str) -> bool:
    """Whether the user wrote the key; models that do not remember it give None for what was not."""
    given = getattr(options, "given", None)
    return given is None or wire_name in given


def fill(config: NodeConfig, options: object, parent: NodeConfig | None) -> None:
    """The common keys of a ``-blockdev`` node.

    QEMU-COMPAT: a node defined inside another takes what it does not say itself from that one, and passes discards on
    (which the node above decides about); a node referred to by its name takes nothing.
    """
    for name, wire_name in INHERITED.items():
        value = getattr(options, name, None) if is_given(options, wire_name) else None
        if value is None and parent is not None:
            value = getattr(parent, name)
        setattr(config, name, bool(value))
    says = is_given(options, "discard") and getattr(options, "discard", None) is not None
    config.discard = wants_discard(options) if says or parent is None else True


def wants_discard(options: object) -> bool:
    return getattr(options, "discard", None) in ("unmap", "on")
