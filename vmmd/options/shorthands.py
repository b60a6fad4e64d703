# SPDX-License-Identifier: Apache-2.0
"""Character devices: the long form of ``-chardev`` and the short ones, ``-serial stdio``, ``-qmp unix:PATH,…``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import UsageError
from vmmd.options import keyval, lexer
from vmmd.options.backends import CHARDEVS, ChardevOptions, LaterChardev
from vmmd.options.draft import asks_for_help, refuse_duplicate
from vmmd.options.fields import shown, unknown_name

if TYPE_CHECKING:
    from vmmd.options.draft import Draft
    from vmmd.options.fields import Items

_WORDS = ("none", "null", "pty", "stdio", "file:", "unix:", "tcp:", "chardev:", "ringbuf")  # what an error offers
_LATER_WORDS = ("braille", "msmouse", "testdev", "vc", "wctablet")
_LATER_PREFIXES = ("con:", "mon:", "pipe:", "telnet:", "tn3270:", "udp:", "vc:", "websocket:", "/dev/", "COM")


def add_chardev(draft: Draft, option: str, text: str, id_: str) -> str | None:
    """Make the character device that ``text`` describes; returns its id, or None for ``none``.

    ``chardev:ID`` names one that is defined elsewhere on the line. What this version does not have goes to
    ``config.later``. Raises UsageError.
    """
    if text == "none":
        return None
    if text.startswith("chardev:"):
        named = text.removeprefix("chardev:")
        draft.chardev_users.append((f"{option} {shown(text)}", named))
        return named
    if text in _LATER_WORDS or text.startswith(_LATER_PREFIXES):
        draft.later(option, text)
        return None
    backend, items = _backend(option, text)
    refuse_duplicate(f"{option} {shown(text)}", "chardev", id_, draft.config.chardevs)
    shape = text.partition(":")[0].partition(",")[0]
    made: ChardevOptions = CHARDEVS[backend].from_items([("id", id_), *items], f"{option} {shape}")
    made.option = f"{option} {shown(text)}"
    draft.config.chardevs[id_] = made
    draft.chardev_users.append((made.option, id_))
    return id_


def _backend(option: str, text: str) -> tuple[str, Items]:
    kind, colon, rest = text.partition(":")
    if not colon:
        word, _, options = text.partition(",")
        if word in ("null", "pty", "stdio", "ringbuf"):
            return word, lexer.split(options, where=f"{option} {word}")
    elif kind == "file":
        return "file", [("path", rest)]
    elif kind == "unix":
        path, _, options = rest.partition(",")
        return "socket", [("path", path), *lexer.split(options, where=option)]
    elif kind == "tcp":
        return "socket", _tcp(option, text, rest)
    prefix = f"{option} {shown(text)}"
    # QEMU-COMPAT: the phrase
    raise unknown_name(prefix, kind + colon, _WORDS, f"'{shown(text)}' is not a valid char driver")


def _tcp(option: str, text: str, rest: str) -> Items:
    address, _, options = rest.partition(",")
    host, colon, port = address.rpartition(":")
    if not colon or not port:
        raise UsageError(f"{option} {shown(text)}: a TCP address takes the form tcp:HOST:PORT[,server=on,wait=off]")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return [("host", host), ("port", port), *lexer.split(options, where=option)]


def read_chardev(draft: Draft, option: str, text: str) -> None:
    """``-chardev BACKEND,id=…``."""
    asks_for_help(option, text)
    made = chardev_options(option, text)
    kind = made.kind if isinstance(made, LaterChardev) else made.backend
    refuse_duplicate(f"{option} {kind}", "chardev", made.id, draft.config.chardevs)
    made.option = f"{option} {kind},id={made.id}"
    draft.config.chardevs[made.id] = made


def chardev_options(option: str, text: str) -> ChardevOptions:
    """What ``BACKEND,id=…`` says. Raises UsageError; its sentence begins with ``option``."""
    from vmmd.options.backends import CHARDEVS_LATER

    argument = keyval.parse(option, text, "backend")
    backend = argument.take("backend")
    id_ = argument.peek("id")
    if backend is None:
        raise UsageError(f"{option} {shown(text)}: Parameter 'backend' is missing", "known are: " + ", ".join(CHARDEVS))
    if backend in CHARDEVS_LATER:
        made: ChardevOptions = LaterChardev(backend, argument.items)
        made.values["id"] = id_ or ""
    elif backend in CHARDEVS:
        if id_ is None:
            raise UsageError(f"{option} {backend}: no id specified", "id= is the name that other options use")
        made = CHARDEVS[backend].from_items(argument.items, f"{option} {backend},id={id_}")
    else:
        prefix = f"{option} backend={shown(backend)}"
        raise unknown_name(prefix, backend, CHARDEVS, f"'{shown(backend)}' is not a valid char driver name")
    return made
