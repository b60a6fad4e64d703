# SPDX-License-Identifier: Apache-2.0
"""Commands that free what hangs because a peer does not answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.chardev.listen import ListenSocket
from vmmd.chardev.socket import SocketChardev
from vmmd.errors import DeviceNotFoundError
from vmmd.qmp.registry import Context, Example, command

if TYPE_CHECKING:
    from vmmd.qmp.models.yank import YankInstance

_SOCKET = {"addr": {"type": "inet", "data": {"host": "127.0.0.1", "port": "0"}}}
_ADD_SOCKET: tuple[str, dict[str, object]] = (
    "chardev-add",
    {"id": "peer", "backend": {"type": "socket", "data": _SOCKET}},
)


@command(
    "yank", since="6.0", oob=True, example=Example({"instances": [{"type": "chardev", "id": "peer"}]}, (_ADD_SOCKET,))
)
def yank(ctx: Context, *, instances: list[YankInstance]) -> dict[str, object]:
    """Shut down the connections of the named instances, whatever their peers do; none when one of them is unknown. May
    be sent out of band, to free a command that waits for such a peer."""
    sockets = _sockets(ctx)
    wanted = [instance["id"] for instance in instances]
    for id_ in wanted:
        if id_ not in sockets:
            raise DeviceNotFoundError("Instance not found", f"query-yank lists them, '{id_}' is not there")
    for id_ in wanted:
        sockets[id_].yank()
    return {}


@command("query-yank", since="6.0", oob=True)
def query_yank(ctx: Context) -> list[YankInstance]:
    """What ``yank`` can shut down: the character devices on sockets, monitors among them."""
    return [{"type": "chardev", "id": id_} for id_ in _sockets(ctx)]


def _sockets(ctx: Context) -> dict[str, SocketChardev | ListenSocket]:
    return {id_: device for id_, device in ctx.vm.chardevs.items() if isinstance(device, SocketChardev | ListenSocket)}
