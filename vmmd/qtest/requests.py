# SPDX-License-Identifier: Apache-2.0
"""What each qtest request does with the machine. One handler a command; a handler returns the reply without its end.

All run on the loop with the DeviceLock held, one at a time. Ports and memory are those that a CPU would reach.
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING

from vmmd.core.address_space import MASKS
from vmmd.errors import VmmdError
from vmmd.machine.cpu_memory import CpuMemory
from vmmd.qtest.clock import ClientClock
from vmmd.qtest.protocol import BLOCK_BYTES_MAX, RequestError, from_hex, number, signed, unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.device import Device
    from vmmd.machine.vm import Vm

    Words = list[bytes]
    Handler = Callable[[Words], bytes]

LAST_PORT = 0xFFFF
#: time is a signed 64-bit number on the wire
LAST_NS = (1 << 63) - 1
#: QEMU's name of the list of inputs that has none
UNNAMED_INPUTS = b"unnamed-gpio-in"
_WIDTHS = (("b", 1), ("w", 2), ("l", 4), ("q", 8))


class TimePasses(Exception):
    """The reply comes when virtual time has reached a point: ``clock.advance_to`` it first."""

    def __init__(self, target_ns: int) -> None:
        super().__init__(target_ns)
        self.target_ns = target_ns


class Requests:
    """Serves one machine, which may not be built yet."""

    def __init__(self, vm: Vm, report: Callable[[bytes], None]) -> None:
        """``report`` sends a line that is no reply."""
        self._vm = vm
        self._report = report
        self._memory = CpuMemory(None, vm.mmio)
        self._memory_map: object = None
        self._intercepted: Device | None = None
        self._levels: dict[int, int] = {}  # as the client knows them
        #: command -> (fewest words behind it, handler)
        self._handlers: dict[bytes, tuple[int, Handler]] = {
            b"endianness": (0, lambda words: b"OK little"),
            b"read": (2, self._read),
            b"write": (3, self._write),
            b"b64read": (2, self._b64read),
            b"b64write": (3, self._b64write),
            b"memset": (3, self._memset),
            b"irq_intercept_in": (1, self._intercept_in),
            b"irq_intercept_out": (1, self._intercept_out),
            b"set_irq_in": (4, self._set_irq_in),
            b"module_load": (2, self._module_load),
        }
        for letter, size in _WIDTHS:
            if size <= 4:
                self._handlers[f"in{letter}".encode()] = 1, self._port_reader(size)
                self._handlers[f"out{letter}".encode()] = 2, self._port_writer(size)
            self._handlers[f"read{letter}".encode()] = 1, self._loader(size)
            self._handlers[f"write{letter}".encode()] = 2, self._storer(size)
        self.clock: ClientClock
        if isinstance(vm.clock, ClientClock):
            self.clock = vm.clock
            self._handlers[b"clock_step"] = 0, self._clock_step
            self._handlers[b"clock_set"] = 1, self._clock_set

    def serve(self, line: bytes) -> bytes:
        """The reply to a request. Raises RequestError, whose text is the reply, and TimePasses."""
        command, *words = line.split(b" ")
        found = self._handlers.get(command)
        if found is None:
            raise unknown(command)
        fewest, handler = found
        if len(words) < fewest:
            raise RequestError(f"ERR {command.decode()} takes {fewest} words, not {len(words)}")
        return handler(words)

    def clock_reply(self) -> bytes:
        """The reply when time has come where TimePasses said."""
        return b"OK %d" % self.clock.now_ns()

    def forget_levels(self) -> None:
        """A new client: it has been told of no interrupt line."""
        self._levels.clear()

    # --- ports ---

    def _port_reader(self, size: int) -> Handler:
        read = self._vm.pio.read
        return lambda words: b"OK 0x%04x" % read(number(words[0], LAST_PORT), size)

    def _port_writer(self, size: int) -> Handler:
        write, mask = self._vm.pio.write, MASKS[size]

        def handle(words: Words) -> bytes:
            write(number(words[0], LAST_PORT), size, number(words[1]) & mask)
            return b"OK"

        return handle

    # --- memory ---

    def _physical(self) -> CpuMemory:
        memory_map = self._vm.memory_map
        if memory_map is not self._memory_map:  # it is there from the moment on that the machine is built
            self._memory_map = memory_map
            self._memory = CpuMemory(memory_map, self._vm.mmio)
        return self._memory

    def _loader(self, size: int) -> Handler:
        def handle(words: Words) -> bytes:
            return b"OK 0x%016x" % int.from_bytes(self._physical().read(number(words[0]), size), "little")

        return handle

    def _storer(self, size: int) -> Handler:
        mask = MASKS[size]

        def handle(words: Words) -> bytes:
            value = number(words[1]) & mask
            self._physical().write(number(words[0]), value.to_bytes(size, "little"))
            return b"OK"

        return handle

    def _read(self, words: Words) -> bytes:
        data = self._physical().read(number(words[0]), _length(words[1], fewest=1))
        return b"OK 0x" + binascii.hexlify(data)

    def _write(self, words: Words) -> bytes:
        gpa, size = number(words[0]), _length(words[1])
        self._physical().write(gpa, from_hex(words[2], size))
        return b"OK"

    def _b64read(self, words: Words) -> bytes:
        data = self._physical().read(number(words[0]), _length(words[1]))
        return b"OK " + binascii.b2a_base64(data, newline=False)

    def _b64write(self, words: Words) -> bytes:
        gpa, size = number(words[0]), _length(words[1])
        try:
            data = binascii.a2b_base64(words[2] + b"==")  # padding may be missing
        except binascii.Error:
            raise RequestError("ERR the data are not base64") from None
        self._physical().write(gpa, data[:size])  # QEMU-COMPAT: the shorter one counts
        return b"OK"

    def _memset(self, words: Words) -> bytes:
        gpa, size, value = number(words[0]), _length(words[1]), number(words[2])
        self._physical().write(gpa, bytes((value & 0xFF,)) * size)
        return b"OK"

    # --- time ---

    def _clock_step(self, words: Words) -> bytes:
        clock = self.clock
        if words:
            target_ns = clock.now_ns() + signed(words[0])
            if target_ns > LAST_NS:
                raise RequestError(f"ERR virtual time ends at {LAST_NS}")
            raise TimePasses(target_ns)
        due = clock.next_deadline()
        raise TimePasses(clock.now_ns() if due is None else due)

    def _clock_set(self, words: Words) -> bytes:
        raise TimePasses(signed(words[0]))

    # --- interrupt lines ---

    def _device(self, path: bytes) -> Device:
        try:
            node = self._vm.qom.resolve(path.decode("utf-8", "replace"))
        except VmmdError:
            raise RequestError("FAIL Unknown device") from None  # QEMU-COMPAT: the sentence
        for device in self._vm.devices:
            if device.qom_path == node.path:
                return device
        raise RequestError("FAIL Unknown device")

    def _intercept_in(self, words: Words) -> bytes:
        device = self._device(words[0])
        if device is self._intercepted:
            return b"OK"
        if self._intercepted is not None:
            raise RequestError("FAIL IRQ intercept already enabled")
        if not hasattr(device, "watch"):
            raise RequestError(f"FAIL {device.type_name} has no inputs to intercept")
        device.watch = self._changed
        self._intercepted = device
        return b"OK"

    def _intercept_out(self, words: Words) -> bytes:
        device = self._device(words[0])
        raise RequestError(f"FAIL {device.type_name} has no outputs to intercept")

    def _changed(self, pin: int, level: int) -> None:
        """An input of the intercepted device. Told once each change, as the client knows it."""
        if self._levels.get(pin, 0) != level:
            self._levels[pin] = level
            self._report(b"IRQ %s %d" % (b"raise" if level else b"lower", pin))

    def _set_irq_in(self, words: Words) -> bytes:
        device, name = self._device(words[0]), words[1]
        pin, level = signed(words[2]), signed(words[3])
        drive: Callable[[int, int], None] | None = getattr(device, "set_input", None)
        pins: int = getattr(device, "input_count", 0)
        if drive is None or name != UNNAMED_INPUTS or not 0 <= pin < pins:
            raise RequestError("FAIL no such input")
        drive(pin, 1 if level else 0)
        return b"OK"

    # --- the rest ---

    def _module_load(self, words: Words) -> bytes:
        """vmmd has no modules: everything is there, and nothing can be added."""
        return b"FAIL"


def _length(word: bytes, fewest: int = 0) -> int:
    length = number(word, BLOCK_BYTES_MAX)
    if length < fewest:
        raise RequestError("ERR invalid argument size")
    return length
