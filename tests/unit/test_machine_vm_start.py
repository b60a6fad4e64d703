# SPDX-License-Identifier: Apache-2.0
"""``cont`` answers before the vCPUs start; whatever comes between the two must win."""

from __future__ import annotations

from tests.unit.test_machine_vm import Rig, settle
from vmmd.core.events import ResetEvent, ResumeEvent, StopEvent
from vmmd.runstate import RunState


def test_cont_returns_before_the_vcpus_start_and_they_start_in_the_next_turn() -> None:
    rig = Rig()

    async def story() -> None:
        await rig.vm.cont()
        assert rig.vm.runstate.state is RunState.RUNNING
        assert rig.names == [ResumeEvent]
        assert not rig.cpus.runs
        await settle()
        assert rig.cpus.runs

    rig.run(story)


def test_stop_right_behind_cont_leaves_the_vcpus_stopped() -> None:
    rig = Rig()

    async def story() -> None:
        await rig.vm.cont()
        await rig.vm.stop()
        await settle()
        assert not rig.cpus.runs
        await rig.vm.cont()
        await rig.vm.stop()
        await rig.vm.cont()
        await settle()
        assert rig.cpus.runs
        assert rig.names == [ResumeEvent, StopEvent] * 2 + [ResumeEvent]

    rig.run(story)


def test_reset_right_behind_cont_starts_the_vcpus_after_the_reset() -> None:
    rig = Rig()
    order: list[bool] = []

    async def story() -> None:
        rig.vm.reset_board = lambda: order.append(rig.cpus.runs)
        await rig.vm.cont()
        await rig.vm.system_reset()
        await settle()
        assert order == [False]
        assert rig.cpus.runs
        assert rig.names == [ResumeEvent, ResetEvent]

    rig.run(story)
