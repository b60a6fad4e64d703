# SPDX-License-Identifier: Apache-2.0
"""Commands about character devices."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from vmmd.chardev.base import Chardev
from vmmd.errors import BackendError, StateError, UsageError
from vmmd.qmp.registry import Context, Example, command

if TYPE_CHECKING:
    from vmmd.chardev.ringbuf import RingbufChardev
    from vmmd.chardev.socket import SocketChardev
    from vmmd.qmp.models.char import ChardevBackend, ChardevBackendInfo, ChardevInfo, ChardevReturn, DataFormat

_NULL = {"type": "null", "data": {}}
_ADD_NULL: tuple[str, dict[str, object]] = ("chardev-add", {"id": "spare", "backend": _NULL})
_RING = {"type": "ringbuf", "data": {"size": 64}}
_ADD_RING: tuple[str, dict[str, object]] = ("chardev-add", {"id": "ring", "backend": _RING})
_FILL_RING: tuple[str, dict[str, object]] = ("ringbuf-write", {"device": "ring", "data": "hello"})


@command("query-chardev", since="0.14", preconfig=True)
def query_chardev(ctx: Context) -> list[ChardevInfo]:
    """The character devices and where they lead."""
    return [
        {"label": label, "filename": device.filename, "frontend-open": device.frontend_open}
        for label, device in ctx.vm.chardevs.items()
    ]


@command("query-chardev-backends", since="2.0")
def query_chardev_backends(ctx: Context) -> list[ChardevBackendInfo]:
    """The kinds of character devices that chardev-add takes."""
    from vmmd.options.backends import CHARDEVS

    return [{"name": name} for name in CHARDEVS]


@command("chardev-add", since="1.4", example=Example({"id": "spare", "backend": _NULL}))
async def chardev_add(ctx: Context, *, id: str, backend: ChardevBackend) -> ChardevReturn:  # noqa: A002  # QMP's name
    """Make a character device. A socket is a server unless it says otherwise; with ``wait`` the reply comes when its
    first client is there, while other sessions go on; when the session ends before, the device is taken away again.
    ``fd`` names a descriptor that this session got with getfd."""
    from vmmd.chardev.socket import SocketChardev
    from vmmd.qmp.char_backend import make, wanted_chardev

    wanted = wanted_chardev(id, backend, f"Failed to add chardev '{id}'")
    made = await make(ctx.vm.chardevs.add, wanted, ctx.session.fds)
    if wanted.wait and isinstance(made, SocketChardev):
        await _first_client(ctx, made)
    return _made(made)


async def _first_client(ctx: Context, made: SocketChardev) -> None:
    """Raises StateError when there will be none, or nobody who wants to know; the device goes then."""
    settled = ctx.vm.loop.create_future()
    has_left = False

    def connected() -> None:
        if not settled.done():
            settled.set_result(None)

    def left() -> None:
        nonlocal has_left
        if not settled.done():
            has_left = True
            settled.set_result(None)

    chardevs = ctx.vm.chardevs
    try:
        undo = ctx.session.when_left(left)
    except OSError as error:
        chardevs.remove(made.label)
        raise BackendError.from_os(f"Failed to add chardev '{made.label}': cannot watch its client", error) from error
    try:
        made.when_connected(connected)
        await settled
    finally:
        undo()
    if chardevs.get(made.label) is not made:
        raise StateError(f"Chardev '{made.label}' was removed while it waited for a client")
    if has_left:
        if made.frontend is None:
            chardevs.remove(made.label)
        raise StateError(f"Failed to add chardev '{made.label}': the client of the monitor has left")


@command("chardev-change", since="2.10", example=Example({"id": "spare", "backend": _NULL}, before=(_ADD_NULL,)))
async def chardev_change(ctx: Context, *, id: str, backend: ChardevBackend) -> ChardevReturn:  # noqa: A002
    """Put a new backend in the place of a character device, under the device that uses it. When the new one cannot be
    made, the old one stays as it is; what the guest had written goes out through the old one."""
    from vmmd.qmp.char_backend import make, wanted_chardev

    wanted = wanted_chardev(id, backend, f"chardev-change {id}")
    if wanted.wait:
        raise UsageError("chardev-change with wait=true: not available in this version", "leave wait out")
    made = await make(ctx.vm.chardevs.change, wanted, ctx.session.fds)
    return _made(made)


def _made(device: Chardev) -> ChardevReturn:
    from vmmd.chardev.pty import PtyChardev

    return {"pty": device.slave_path} if isinstance(device, PtyChardev) else {}


@command("chardev-remove", since="1.4", example=Example({"id": "spare"}, before=(_ADD_NULL,)))
def chardev_remove(ctx: Context, *, id: str) -> dict[str, object]:  # noqa: A002
    """Remove a character device that nothing uses."""
    ctx.vm.chardevs.remove(id)
    return {}


@command("chardev-send-break", since="2.10", example=Example({"id": "spare"}, before=(_ADD_NULL,)))
def chardev_send_break(ctx: Context, *, id: str) -> dict[str, object]:  # noqa: A002
    """Send a break condition to the device behind a character device. Only serial ports know one; nothing happens to
    others."""
    found = ctx.vm.chardevs.get(id)
    if found is None:
        raise UsageError(f"Chardev '{id}' not found")
    if isinstance(found, Chardev):
        found.send_break()
    return {}


@command("ringbuf-read", since="1.4", example=Example({"device": "ring", "size": 3}, before=(_ADD_RING, _FILL_RING)))
def ringbuf_read(ctx: Context, *, device: str, size: int, format: DataFormat | None = None) -> str:  # noqa: A002
    """Take the oldest ``size`` bytes out of a ring buffer, as text (what is not UTF-8 becomes U+FFFD) or in base64."""
    ring = _ring(ctx, device)
    if size <= 0:
        raise UsageError("size must be greater than zero")
    data = ring.read(size)
    return base64.b64encode(data).decode() if format == "base64" else data.decode("utf-8", "replace")


@command("ringbuf-write", since="1.4", example=Example({"device": "ring", "data": "hello"}, before=(_ADD_RING,)))
def ringbuf_write(ctx: Context, *, device: str, data: str, format: DataFormat | None = None) -> dict[str, object]:  # noqa: A002
    """Add to a ring buffer; when it is full, the oldest bytes go."""
    ring = _ring(ctx, device)
    ring.put(_from_base64(data) if format == "base64" else data.encode("utf-8", "replace"))
    return {}


def _ring(ctx: Context, id_: str) -> RingbufChardev:
    from vmmd.chardev.ringbuf import RingbufChardev

    found = ctx.vm.chardevs.get(id_)
    if found is None:
        raise UsageError(f"Device '{id_}' not found")
    if not isinstance(found, RingbufChardev):
        raise UsageError(f"{id_} is not a ringbuf device")
    return found


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError("Base64 data contains invalid characters", "or its end is missing") from error
