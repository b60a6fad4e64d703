# SPDX-License-Identifier: Apache-2.0
"""Guest runs shared by the tests of one session: a guest is booted once per emulator, however many tests look at it."""

from __future__ import annotations

import pytest

from tests.framework.cache import MissingSources
from tests.framework.linux_network import linux_network
from tests.framework.scenarios import SCENARIOS, GuestRun
from tests.framework.vm import emulator

ALL_SCENARIOS = SCENARIOS | {"linux-network": linux_network}


class GuestRuns:
    """Runs scenarios on demand and keeps what came of them, a failure too."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], GuestRun | Exception] = {}

    def get(self, guest: str, emulator_name: str) -> GuestRun:
        """The run of *guest* under the emulator `qemu` or `vmmd`; raises what the run raised."""
        key = guest, emulator_name
        if key not in self._runs:
            try:
                self._runs[key] = self.fresh(guest, emulator_name)
            except Exception as error:  # kept, and raised for every test that needs this run
                self._runs[key] = error
        run = self._runs[key]
        if isinstance(run, MissingSources):
            pytest.skip(str(run))
        if isinstance(run, Exception):
            raise run
        return run

    def fresh(self, guest: str, emulator_name: str) -> GuestRun:
        """One more run, not kept."""
        return ALL_SCENARIOS[guest](emulator(emulator_name))


@pytest.fixture(scope="session")
def guest_runs() -> GuestRuns:
    """The session's guest runs."""
    return GuestRuns()


@pytest.fixture(params=[pytest.param("qemu", marks=pytest.mark.qemu), "vmmd"])
def emulator_name(request: pytest.FixtureRequest) -> str:
    """Both emulators: a test that QEMU does not pass would say nothing about vmmd."""
    return str(request.param)
