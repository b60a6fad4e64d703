# SPDX-License-Identifier: Apache-2.0
"""The fuzzers of the QMP wire for some seconds; ``scripts/acceptance-fuzz-wire`` runs them for longer."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.fuzz.wire_session import WireSession
from tests.fuzz.wire_socket import fuzz

SOCKET_SECONDS = 6


def test_session() -> None:
    run_state_machine_as_test(WireSession, settings=settings(max_examples=60, stateful_step_count=40, deadline=None))


def test_sockets() -> None:
    report = fuzz(SOCKET_SECONDS, seed=None)
    assert report.faults == []
    assert report.commands > 100
