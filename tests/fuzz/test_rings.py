# SPDX-License-Identifier: Apache-2.0
"""Every broken ring by name on every virtio device of the registry, and random orders of them with lawful requests.

``scripts/acceptance-rings`` goes on for as long as it is told to.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.framework.virtqueue_driver import DESC_WRITE
from tests.fuzz.broken_rings import BAD_LENGTHS, DATA, HOLE, RING_STRIDE, RINGS, RULES, SET_UPS
from tests.fuzz.ring_machine import Bench, RingFault, recipes_of, ring_machine, virtio_types
from vmmd.core.registry import device_class

if TYPE_CHECKING:
    from collections.abc import Iterator

TYPES = virtio_types()
SCRIBBLE_S = 0.5


def one_of_each() -> list[str]:
    """One type for each virtio id: the variants share everything but their interfaces."""
    return [name for name in TYPES if not name.endswith("transitional")]


def other_queues() -> list[tuple[str, int]]:
    """(type, recipe) of the queues behind the first, one type for each virtio id."""
    return [(name, recipe) for name in one_of_each() for recipe in range(1, len(recipes_of(name)))]


@contextmanager
def bench(type_name: str, modern: bool, recipe: int = 0) -> Iterator[Bench]:
    made = Bench(type_name, modern=modern, recipe=recipe)
    try:
        yield made
    finally:
        made.close()


def works_after_reset(made: Bench) -> None:
    made.settle_host()
    made.set_up()
    assert not made.needs_reset
    made.clean_request()
    made.clean_request(indirect=True)


@pytest.mark.parametrize("type_name", TYPES)
def test_every_device_has_a_recipe_and_does_clean_requests(type_name: str) -> None:
    cls = device_class(type_name)
    assert cls is not None
    for recipe in range(len(recipes_of(type_name))):
        for modern in (True, False):
            if modern or not type_name.endswith("non-transitional"):
                with bench(type_name, modern, recipe) as made:
                    for _ in range(40):  # more than the ring has entries
                        made.clean_request()
                        made.clean_request(indirect=True)


@pytest.mark.parametrize("modern", [True, False], ids=["modern", "legacy"])
@pytest.mark.parametrize(("type_name", "recipe"), other_queues())
def test_broken_rings_of_the_other_queues_are_survived(type_name: str, recipe: int, modern: bool) -> None:
    with bench(type_name, modern, recipe) as made:
        for name, rule in RULES.items():
            if modern or not rule.modern_only:
                made.break_rule(name)
                works_after_reset(made)
        for name in SET_UPS if modern else ():
            made.wrong_set_up(name)
            works_after_reset(made)


@pytest.mark.parametrize("modern", [True, False], ids=["modern", "legacy"])
@pytest.mark.parametrize("type_name", one_of_each())
@pytest.mark.parametrize("name", RULES)
def test_a_broken_ring_is_survived(name: str, type_name: str, modern: bool) -> None:
    if RULES[name].modern_only and not modern:
        return  # lawful there
    with bench(type_name, modern) as made:
        made.break_rule(name)
        works_after_reset(made)


@pytest.mark.parametrize("type_name", one_of_each())
@pytest.mark.parametrize("name", SET_UPS)
def test_a_queue_set_up_wrongly_is_survived(name: str, type_name: str) -> None:
    with bench(type_name, modern=True) as made:
        made.wrong_set_up(name)
        works_after_reset(made)


@pytest.mark.parametrize("type_name", one_of_each())
def test_a_ring_that_another_thread_changes_meanwhile_is_survived(type_name: str) -> None:
    """Whatever is read, nothing escapes, every turn ends, and a reset helps."""
    with bench(type_name, modern=True) as made:
        stop = threading.Event()
        ring, shadow = made.ring, bytes(made.rig.machine.ram)

        def scribble() -> None:
            chain, turn = made.chain(), 0
            while not stop.is_set():
                turn += 1
                index = turn % len(chain.parts)
                chain.put(index, gpa=(DATA, HOLE)[turn % 2], length=BAD_LENGTHS[turn % 3], flags=turn % 8)
                ring.memory.store_u16(ring.avail + 2, ring.memory.u16(ring.used + 2) + turn % 4 & 0xFFFF)

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        thread = threading.Thread(target=scribble)
        thread.start()
        try:
            end = time.monotonic() + SCRIBBLE_S
            while time.monotonic() < end:
                ring.notify()
                made.rig.loop.run()
                if made.needs_reset:
                    made.driver.status = 0
                    made.rig.loop.run()
                    made.driver.negotiate(1 << 28)
                    made.driver.place_queue(made.recipe.queue, ring.size, (ring.desc, ring.avail, ring.used))
                    made.driver.ready()
                    made.rig.loop.run()
        finally:
            stop.set()
            thread.join()
            sys.setswitchinterval(interval)
        assert not made.log.raised
        given = {
            at
            for gpa, length in ((RINGS + RING_STRIDE * made.recipe.queue, RING_STRIDE), (DATA, 0x3000))
            for at in range(gpa, gpa + length)
        }
        now = made.rig.machine.ram
        assert all(now[at] == old for at, old in enumerate(shadow) if at not in given)
        made.remember()
        works_after_reset(made)


@pytest.mark.parametrize("type_name", TYPES)
def test_random_orders_of_right_and_wrong(type_name: str) -> None:
    examples = 25 if type_name in one_of_each() else 5
    profile = settings(
        max_examples=examples, stateful_step_count=30, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_state_machine_as_test(ring_machine(type_name), settings=profile)


def test_a_device_that_writes_where_it_must_not_is_found() -> None:
    """The shadow copy is looked at: a device with a bug, made on purpose."""
    with bench(one_of_each()[0], modern=True) as made:
        notify = made.ring.notify

        def stray() -> None:
            notify()
            made.write(DATA + 0x8000, b"\1")

        made.ring.notify = stray
        with pytest.raises(RingFault, match="memory at 0x68000 changed"):
            made.clean_request()


def test_a_device_that_ignores_a_broken_ring_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with bench(one_of_each()[0], modern=True) as made:
        monkeypatch.setattr(type(made.rig.device.virtio), "worker_failed", lambda *_: None)  # type: ignore[attr-defined]
        with pytest.raises(RingFault, match="the device goes on"):
            made.break_rule("head is ffff")


def test_the_writable_part_of_a_chain_is_what_may_change() -> None:
    with bench(one_of_each()[0], modern=True) as made:
        chain = made.chain()
        made.remember()
        given = {gpa for gpa, _, flags in chain.parts if flags & DESC_WRITE}
        assert given <= {gpa for gpa, _ in made.writable}
        assert not {gpa for gpa, _, flags in chain.parts if not flags & DESC_WRITE} & {gpa for gpa, _ in made.writable}
