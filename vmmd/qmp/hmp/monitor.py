# SPDX-License-Identifier: Apache-2.0
"""Runs command lines of the monitor for people: one line in, text with CRLF out.

Every text is a successful reply of human-monitor-command, also «unknown command». Layout and sentences follow QEMU 7.2
(black-box comparison). Control characters in it, which a guest may have chosen, are shown and not obeyed. vCPUs that
run are asked on their own threads; nothing here stops the machine unless told to. Loop thread only.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeVar

from vmmd.core.background import Turn, once_on_thread
from vmmd.core.trace_events import HANDLE_HMP_COMMAND
from vmmd.errors import VmmdError
from vmmd.qmp import registry as qmp_registry
from vmmd.qmp.hmp.arguments import ArgumentError, Arguments, Format
from vmmd.qmp.hmp.line_editor import MAX_LINE_CHARACTERS, TOO_LONG
from vmmd.qmp.hmp.registry import COMMANDS, TOPICS, HmpCommand, load
from vmmd.qmp.session import NO_ID, QmpSession, Request
from vmmd.qmp.trace_text import line_text
from vmmd.safe_text import safe
from vmmd.units import U64_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmmd.kvm.abi import Sregs
    from vmmd.qmp.vm_api import CpusApi, VmApi

T = TypeVar("T")

#: commands that do not need a machine (-preconfig)
EARLY = ("help", "?", "quit", "q", "exit_preconfig")
#: a command may answer with at most this much
MAX_TEXT_BYTES = 4 << 20


class HumanMonitor:
    """A monitor for people: ``cpu_index`` is the vCPU that register and address commands look at.

    ``session`` is the QMP session that sent human-monitor-command; a readline monitor has one of its own.
    """

    def __init__(self, vm: VmApi, cpu_index: int = 0, session: QmpSession | None = None) -> None:
        self.vm = vm
        self.cpu_index = cpu_index
        self.session = session if session is not None else _own_session(vm)
        #: lines that were given before; a readline monitor's own
        self.history: Sequence[str] = ()
        #: what a command that gives no format uses: the last one given
        self.format = Format()
        #: the command was ``quit``: no prompt follows
        self.ended = False
        self._register_values: dict[str, int] = {}

    async def run(self, line: str) -> str:
        """The text of a command line. Never raises for what the user wrote."""
        if len(line) > MAX_LINE_CHARACTERS:
            return TOO_LONG
        if HANDLE_HMP_COMMAND.on:
            HANDLE_HMP_COMMAND("hmp", line_text(line))
        text = await self._run(line)
        if len(text) > MAX_TEXT_BYTES:
            text = text[:MAX_TEXT_BYTES] + f"\nError: the text is cut at {MAX_TEXT_BYTES >> 20} MiB\n"
        return safe(text).replace("\n", "\r\n")

    async def _run(self, line: str) -> str:
        load()
        name, rest = split_name(line)
        if not name:
            return ""
        command, shown = COMMANDS.get(name), name
        if name == "info" and rest.strip():
            topic, rest = split_name(rest)
            command, shown = TOPICS.get(topic), f"info {topic}"
        if command is None:
            return f"unknown command: '{shown}'\n"
        if self.vm.preconfig and name != "info" and name not in EARLY:
            return f"Command '{name}' not available until machine initialization has completed.\n"
        try:
            return await self._call(command, rest)
        except ArgumentError as error:
            return f'{error}\nTry "help {shown}" for more information\n'
        except VmmdError as error:
            return f"Error: {error}\n"

    async def _call(self, command: HmpCommand, rest: str) -> str:
        if "$" in rest:
            self._register_values = await self._named_registers()
        arguments = Arguments(rest, "|".join(command.names), lambda: self._register_values)
        result = command.handler(self, arguments)
        return await result if inspect.isawaitable(result) else result

    async def qmp(self, name: str, arguments: dict[str, object] | None = None) -> Any:
        """What the QMP command ``name`` returns, after all its checks. Raises VmmdError as it does."""
        request = Request(qmp_registry.load()[name], arguments or {}, NO_ID, oob=False)
        if qmp_registry.needs_models(request):
            await once_on_thread(self.vm.loop, qmp_registry.import_models, "settle")
        result = qmp_registry.invoke(qmp_registry.Context(self.vm, self.session), request)
        return await result if inspect.isawaitable(result) else result

    def completions(self, before: str) -> list[str]:
        """What the last word before the cursor may be completed to."""
        words = before.split()
        if not words or before[-1].isspace():
            words.append("")
        if len(words) == 1:
            return [*COMMANDS]
        command = COMMANDS.get(split_name(words[0])[0])
        words = words[1:]
        if command is not None and command.names == ("info",) and len(words) > 1:
            command = TOPICS.get(words[0])
            words = words[1:]
        if command is None or command.complete is None:
            return []
        try:
            return [*command.complete(self, words)]
        except VmmdError:
            return []

    def turn(self) -> Turn:
        """For work that takes longer than a turn of the loop may."""
        return Turn(self.vm.loop)

    # -- vCPUs -----------------------------------------------------------------------------------------------------

    @property
    def cpus(self) -> CpusApi:
        if self.vm.cpus is None or not self.vm.cpus.infos:
            raise VmmdError("No CPU available")
        return self.vm.cpus

    async def on_vcpu(self, index: int, parked: Callable[[CpusApi], T], running: Callable[..., T]) -> T:
        """``parked(cpus)`` when all vCPUs rest, else ``running(vcpu)`` between two entries of its guest."""
        cpus = self.cpus
        if cpus.all_parked:
            return parked(cpus)
        returned: list[T] = []
        raised: list[Exception] = []
        finished = self.vm.loop.create_future()

        def done(result: object, error: Exception | None) -> None:
            if error is not None:
                raised.append(error)
            else:
                returned.append(result)  # type: ignore[arg-type]  # what ``running`` returned
            finished.set_result(None)

        cpus.run_on_vcpu(index, running, done)
        await finished
        if raised:
            raise raised[0]
        return returned[0]

    async def control_registers(self) -> Sregs:
        """Segment and control registers of the current vCPU."""
        index = self.cpu_index
        return await self.on_vcpu(index, lambda cpus: cpus.control_registers(index), lambda vcpu: vcpu.sregs())

    async def _named_registers(self) -> dict[str, int]:
        """Registers by the names that expressions know: ``$eax``, ``$rax``, ``$pc``, ``$cs.base``."""
        from vmmd.kvm import cpustate

        index = self.cpu_index
        raw = await self.on_vcpu(index, lambda cpus: cpus.registers(index), cpustate.registers)
        named = {}
        for key, value in raw.items():
            base, _, part = key.partition("_")
            named[f"{base}.{part}" if part in ("base", "limit") else key] = value
        for letter in ("ax", "bx", "cx", "dx", "si", "di", "sp", "bp"):
            named[f"e{letter}"] = raw.get(f"r{letter}", 0)
        named["eip"] = raw.get("rip", 0)
        # QEMU-COMPAT: $pc is the linear address of the next instruction
        named["pc"] = (raw.get("cs_base", 0) + raw.get("rip", 0)) & U64_MAX
        named["eflags"] = raw.get("rflags", 0)
        return named

    async def translate(self, gva: int) -> int | None:
        """Guest-physical address of a linear one on the current vCPU."""
        return await self.on_vcpu(
            self.cpu_index, lambda cpus: cpus.translate(self.cpu_index, gva), lambda vcpu: vcpu.translate(gva)
        )


def split_name(line: str) -> tuple[str, str]:
    """The command's name, and what follows it; a ``/format`` may follow without a blank."""
    line = line.lstrip()
    end = 0
    while end < len(line) and not line[end].isspace() and line[end] != "/":
        end += 1
    return line[:end], line[end:]


def _own_session(vm: VmApi) -> QmpSession:
    session = QmpSession(qmp_registry.COMMANDS, vm.fdsets.budget)
    session.enable([])
    return session
