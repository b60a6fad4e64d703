# SPDX-License-Identifier: Apache-2.0
"""announce-self: when which NIC speaks."""

from __future__ import annotations

import pytest

from tests.unit.fakes import ImmediateLoop
from tests.unit.net_support import FakeNic
from vmmd.net.announce import MAX_ANNOUNCEMENTS, Announcement, Announcer
from vmmd.units import NS_PER_MS


class Bench:
    def __init__(self) -> None:
        self.loop = ImmediateLoop()
        self.nics = {"a": FakeNic("a"), "b": FakeNic("b")}
        self.announcer = Announcer(self.loop, self.nics.items)

    def start(self, id_: str = "", *, rounds: int = 5, names: set[str] | None = None) -> None:
        interfaces = None if names is None else frozenset(names)
        asked = Announcement(id_, 50, 250, rounds, 100, interfaces)
        assert self.announcer.has_room(asked)
        self.announcer.start(asked)

    @property
    def counts(self) -> list[int]:
        return [nic.announced for nic in self.nics.values()]


def test_distances_grow_by_a_step_up_to_a_limit():
    bench = Bench()
    bench.start()
    distances = []
    while bench.loop.later:
        distances.append(bench.loop.later[0][0] // NS_PER_MS)
        bench.loop.run_later()
    assert distances == [50, 150, 250, 250]
    assert bench.counts == [5, 5]


def test_only_named_cards_speak():
    bench = Bench()
    bench.start(rounds=1, names={"b", "nix"})
    assert bench.counts == [0, 1]
    assert not bench.loop.later


@pytest.mark.parametrize(("rounds", "after"), [(2, [3, 3]), (0, [1, 1])])
def test_an_announcement_takes_the_place_of_one_of_its_name(rounds: int, after: list[int]):
    bench = Bench()
    bench.start("x")
    bench.start("x", rounds=rounds)
    while bench.loop.later:
        bench.loop.run_later()
    assert bench.counts == after


def test_announcements_of_other_names_go_on_beside_it_up_to_a_number():
    bench = Bench()
    for number in range(MAX_ANNOUNCEMENTS):
        bench.start(str(number), rounds=2)
    late = Announcement("late", 50, 250, 2, 100, None)
    assert not bench.announcer.has_room(late)
    bench.loop.run_later()
    assert bench.announcer.has_room(late)
    assert bench.counts == [2 * MAX_ANNOUNCEMENTS] * 2


def test_one_of_as_many_as_there_may_be_can_be_replaced_and_ended():
    bench = Bench()
    for number in range(MAX_ANNOUNCEMENTS):
        bench.start(str(number), rounds=2)
    bench.start("7", rounds=5)
    bench.start("8", rounds=0)
    bench.start("late")


def test_a_card_that_comes_meanwhile_speaks_in_the_next_round():
    bench = Bench()
    bench.start(rounds=2)
    late = bench.nics["late"] = FakeNic("late")
    bench.loop.run_later()
    assert late.announced == 1


def test_at_the_end_nobody_speaks_any_more():
    bench = Bench()
    bench.start()
    bench.announcer.close()
    bench.loop.run_later()
    assert bench.counts == [1, 1]
