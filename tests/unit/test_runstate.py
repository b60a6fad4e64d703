# SPDX-License-Identifier: Apache-2.0
"""Run states: the table says who may follow whom, and every way out of a stop exists."""

from __future__ import annotations

import pytest

from vmmd.errors import InternalError
from vmmd.runstate import NEEDS_RESET, TRANSITIONS, RunState, RunStateMachine


def test_every_state_is_in_the_table_and_can_be_left_by_a_reset() -> None:
    assert set(TRANSITIONS) == set(RunState)
    for state, followers in TRANSITIONS.items():
        if state not in (RunState.RUNNING, RunState.PRELAUNCH):
            assert RunState.PRELAUNCH in followers, state


def test_only_a_running_machine_is_stopped() -> None:
    for state, followers in TRANSITIONS.items():
        if state is not RunState.RUNNING:
            assert followers <= {RunState.RUNNING, RunState.PRELAUNCH}, state


def test_states_that_need_a_reset_cannot_run() -> None:
    for state in RunState:
        assert (RunState.RUNNING in TRANSITIONS[state]) == (state not in NEEDS_RESET | {RunState.RUNNING}), state


def test_illegal_transition_is_an_internal_error_and_changes_nothing() -> None:
    machine = RunStateMachine()
    seen: list[tuple[RunState, RunState]] = []
    machine.observe(lambda old, new: seen.append((old, new)))
    with pytest.raises(InternalError, match="from 'prelaunch' to 'paused'"):
        machine.set(RunState.PAUSED)
    assert machine.state is RunState.PRELAUNCH
    machine.set(RunState.RUNNING)
    machine.set(RunState.RUNNING)  # no transition, no call
    assert seen == [(RunState.PRELAUNCH, RunState.RUNNING)]
