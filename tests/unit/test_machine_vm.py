# SPDX-License-Identifier: Apache-2.0
"""Vm's operations when something fails or two of them meet: nothing hangs, nothing runs that must not."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from vmmd.core.device import ShutdownCause
from vmmd.core.events import ResetEvent, ResumeEvent, ShutdownEvent, StopEvent
from vmmd.errors import BackendError, VmmdError
from vmmd.eventloop import EventLoopPort
from vmmd.machine.vm import Vm
from vmmd.runstate import RunState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Cpus:
    """Remembers whether the vCPUs may run."""

    def __init__(self) -> None:
        self.paused = True
        self.held = False
        self.fail_pause = False

    @property
    def runs(self) -> bool:
        return not (self.paused or self.held)

    def pause_now(self) -> bool:
        if self.fail_pause:
            raise BackendError("KVM is gone")
        self.paused = True
        return True

    def pause(self, done: Callable[[], None]) -> None:
        raise NotImplementedError("pause_now was enough")

    def resume(self) -> None:
        self.paused = False

    def hold(self) -> None:
        self.held = True

    def release(self, unless: Callable[[], bool] | None = None) -> None:
        if unless is None or not unless():
            self.held = False


class Rig:
    def __init__(self, *, no_shutdown: bool = False, no_reboot: bool = False) -> None:
        self.port = EventLoopPort()
        config: Any = SimpleNamespace(no_shutdown=no_shutdown, no_reboot=no_reboot)
        self.vm = Vm(config, self.port)
        self.cpus = Cpus()
        self.vm.cpus = self.cpus  # type: ignore[assignment]  # what Vm uses of it
        self.events: list[tuple[object, ...]] = []
        self.vm.events.sink = SimpleNamespace(emit=self.events.append)  # type: ignore[assignment]
        self.ends: list[int] = []
        self.vm.on_end = self.ends.append

    def run(self, story: Callable[[], Awaitable[None]]) -> None:
        async def main() -> None:
            self.port.bind(asyncio.get_running_loop())
            await asyncio.wait_for(story(), 5)

        asyncio.run(main())

    @property
    def names(self) -> list[type]:
        return [type(each) for each in self.events]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def broken_board() -> None:
    raise BackendError("Could not open 'vmlinuz': No such file or directory")


def test_reset_by_the_guest_that_fails_stops_the_machine_and_lets_it_be_reset_again():
    rig = Rig()

    async def story() -> None:
        vm = rig.vm
        await vm.cont()
        await settle()
        vm.reset_board = broken_board
        vm.requests.request_reset(ShutdownCause.GUEST_RESET)
        await settle()
        assert vm.runstate.state is RunState.INTERNAL_ERROR
        assert rig.names == [ResumeEvent, StopEvent]
        assert not rig.cpus.runs
        vm.reset_board = None
        await vm.system_reset()
        await vm.cont()
        await settle()
        assert rig.cpus.runs

    rig.run(story)


def test_system_reset_that_fails_is_an_error_and_stops_the_machine():
    rig = Rig()

    async def story() -> None:
        await rig.vm.cont()
        await settle()
        rig.vm.reset_board = broken_board
        with pytest.raises(VmmdError, match="vmlinuz"):
            await rig.vm.system_reset()
        assert rig.vm.runstate.state is RunState.INTERNAL_ERROR
        with pytest.raises(VmmdError, match="Resetting the Virtual Machine is required"):
            await rig.vm.cont()

    rig.run(story)


@pytest.mark.parametrize("late", ["system_reset", "cont", "stop"])
def test_operation_that_comes_behind_the_end_does_nothing(late: str):
    rig = Rig()

    async def story() -> None:
        vm = rig.vm
        await vm.cont()
        await settle()
        await asyncio.gather(vm.quit(), getattr(vm, late)())
        await settle()
        assert rig.ends == [0]
        assert rig.names == [ResumeEvent, ShutdownEvent]
        assert not rig.cpus.runs

    rig.run(story)


def test_request_of_the_guest_that_comes_behind_the_end_does_nothing():
    rig = Rig()

    async def story() -> None:
        vm = rig.vm
        await vm.cont()
        await settle()
        vm.requests.request_reset(ShutdownCause.GUEST_RESET)
        await asyncio.gather(vm.quit(), vm.quit(ShutdownCause.HOST_SIGNAL))
        await settle()
        assert rig.ends == [0]
        assert rig.names == [ResumeEvent, ShutdownEvent]

    rig.run(story)


def test_process_ends_even_when_the_vcpus_cannot_be_stopped():
    rig = Rig()

    async def story() -> None:
        await rig.vm.cont()
        await settle()
        rig.cpus.fail_pause = True
        with pytest.raises(VmmdError):
            await rig.vm.quit()
        assert rig.ends == [0]

    rig.run(story)


def test_request_made_while_another_is_served_keeps_the_vcpus_out_of_the_guest():
    rig = Rig(no_shutdown=True)
    seen: list[bool] = []

    async def story() -> None:
        vm = rig.vm
        await vm.cont()
        await settle()
        release = rig.cpus.release

        def watched(unless: Callable[[], bool] | None = None) -> None:
            release(unless)
            seen.append(rig.cpus.runs)

        rig.cpus.release = watched  # type: ignore[method-assign]
        # the second vCPU asks for a shutdown while the reset that the first one asked for is carried out
        vm.reset_board = lambda: vm.requests.request_shutdown(ShutdownCause.GUEST_SHUTDOWN)
        vm.requests.request_reset(ShutdownCause.GUEST_RESET)
        await settle()
        assert not any(seen)
        assert rig.names == [ResumeEvent, ResetEvent, ShutdownEvent, StopEvent]
        assert vm.runstate.state is RunState.SHUTDOWN

    rig.run(story)


def test_timer_callback_that_raises_stops_the_machine():
    rig = Rig()

    async def story() -> None:
        vm = rig.vm
        await vm.cont()
        await settle()

        def broken() -> None:
            raise ZeroDivisionError

        with vm.lock:
            vm.clock.timer(broken).arm(vm.clock.now_ns())
        await asyncio.sleep(0.01)
        assert vm.runstate.state is RunState.INTERNAL_ERROR

    rig.run(story)


def test_stop_makes_the_disks_durable_before_it_says_so():
    rig = Rig()
    waiting: list[Callable[[int], None]] = []
    rig.vm.block = SimpleNamespace(flush_all=waiting.append)  # type: ignore[assignment]

    async def story() -> None:
        await rig.vm.cont()
        stopping = asyncio.create_task(rig.vm.stop())
        await settle()
        assert len(waiting) == 1
        assert rig.names == [ResumeEvent]
        waiting[0](0)
        await stopping
        assert rig.vm.runstate.state is RunState.PAUSED
        assert rig.names == [ResumeEvent, StopEvent]

    rig.run(story)
