# SPDX-License-Identifier: Apache-2.0
"""isa-debugcon: a port whose writes are text for a character device (SeaBIOS writes its log to 402h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.address_space import IoRange
from vmmd.core.device import Device
from vmmd.core.props import CHARDEV, U32, prop
from vmmd.errors import UsageError

if TYPE_CHECKING:
    from vmmd.core.backend import CharBackend, CharEvent
    from vmmd.core.device import DeviceContext
    from vmmd.core.props import PropSet


class IsaDebugcon(Device):
    """Writes go to the chardev byte by byte, reads give ``readback``. Input from the host is not taken."""

    type_name = "isa-debugcon"
    description = "debug console port"
    category = "misc"
    bus_type = "ISA"
    user_creatable = True
    KEPT_AT_RESET = ("dropped_bytes",)

    class Props(Device.Props):
        """Where it is and what is behind it."""

        iobase = prop(U32, 0xE9, "I/O port")
        readback = prop(U32, 0xE9, "value that reading the port gives")
        chardev = prop(CHARDEV, None, "ID of a chardev to use as a backend", required=True)

    props: IsaDebugcon.Props

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self._backend: CharBackend | None = None
        self.dropped_bytes = 0  # the backend's buffer was full

    def realize(self) -> None:
        props, ctx = self.props, self.ctx
        if props.chardev is None:
            raise UsageError("Can't create debugcon device, empty char device")
        if props.iobase >= ctx.pio.size:
            raise UsageError(f"{self.type_name}: iobase {props.iobase:#x} is no port", "ports are 0 to 0xffff")
        backend = ctx.backends.chardev(props.chardev, self.type_name)
        self.on_undo(lambda: ctx.backends.release(backend))
        backend.attach(self)
        self._backend = backend
        self.on_undo(self._detach)
        backend.set_open(True)
        self.claim_pio(IoRange(props.iobase, 1, self._read, self._write, name=self.type_name, max_width=1))

    def _detach(self) -> None:
        if self._backend is not None:
            self._backend.detach()

    def replace_backend(self, backend: CharBackend) -> None:
        self._backend = backend

    def _read(self, offset: int, size: int) -> int:
        return self.props.readback & 0xFF

    def _write(self, offset: int, size: int, value: int) -> None:
        # a full buffer drops: a debug port has no way to say «later», and a vCPU is not held up
        if self._backend is not None and not self._backend.write(bytes((value,))):
            self.dropped_bytes += 1

    def can_receive(self) -> int:
        return 0

    def receive(self, data: bytes) -> None:
        """Never called: ``can_receive`` is 0."""

    def handle_event(self, event: CharEvent) -> None:
        """A peer's coming and going changes nothing."""

    def write_ready(self) -> None:
        """Nothing is held back."""
