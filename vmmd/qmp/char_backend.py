# SPDX-License-Identifier: Apache-2.0
"""From QMP's ``ChardevBackend`` to the option models of ``-chardev``, which check what its values say together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from vmmd.options.backends import CHARDEVS, ChardevOptions, ChardevSocket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vmmd.chardev.base import Chardev
    from vmmd.options.fields import Items
    from vmmd.qmp.models.char import ChardevBackend
    from vmmd.qmp.passed_fds import PassedFds


class WantedChardev(NamedTuple):
    """What a client asks for."""

    options: ChardevOptions
    #: the reply is to come only when a client is connected
    wait: bool
    #: name of the session's descriptor that the device gets
    fd_name: str | None


def wanted_chardev(id_: str, backend: ChardevBackend, where: str) -> WantedChardev:
    """The checked options. ``where`` starts the sentences of errors. Raises VmmdError."""
    kind, data = backend["type"], cast("dict[str, Any]", dict(backend["data"]))
    wait = False
    fd_name = None
    items: Items = [("id", id_)]
    if kind == "file":
        data["path"] = data.pop("out")
    elif kind == "socket":
        data.setdefault("server", True)
        if data["server"]:
            wait = data.pop("wait", False)
            data["wait"] = False  # the start of the whole process does not wait for this one
        address = data.pop("addr")
        if address["type"] == "fd":
            fd_name = data["fd"] = address["data"]["str"]
        else:
            items += address["data"].items()
    items += data.items()
    return WantedChardev(CHARDEVS[kind].from_items(items, where, is_json=True), wait, fd_name)


async def make(maker: Callable[[ChardevOptions], Awaitable[Chardev]], wanted: WantedChardev, fds: PassedFds) -> Chardev:
    """The device that ``maker`` makes; the session's descriptor is its own from then on. Raises VmmdError."""
    options = wanted.options
    if wanted.fd_name is None:
        return await maker(options)
    assert isinstance(options, ChardevSocket)
    with fds.lent(wanted.fd_name) as fd:
        options.fd = str(fd)
        return await maker(options)
