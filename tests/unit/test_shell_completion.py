# SPDX-License-Identifier: Apache-2.0
"""vmmd-shell: what is offered at the cursor, and how what exists in the machine is asked for."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.shell_support import ENTRIES, TablePeer, command, refused, schema
from vmmd.shell.completion import complete, hmp
from vmmd.shell.help import of_command
from vmmd.shell.line import LineError
from vmmd.shell.live import FRESH_S, Item, Key, Live
from vmmd.shell.request import parse
from vmmd.shell.schema import Schema

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = schema()
EXISTING: dict[Key, tuple[Item, ...]] = {
    Key("device"): (Item("disk0", "virtio-blk-pci"), Item("net 0")),
    Key("node"): (Item("node0", "raw"), Item("other", "file")),
    Key("driver"): (Item("virtio-blk-pci"), Item("virtio-net-pci")),
    Key("driver-properties", "virtio-blk-pci"): (
        Item("drive", "node name", "str"),
        Item("share-rw", "on or off", "bool"),
        Item("bad\x1b[31m", "steers", "str"),
    ),
    Key("qom-children", "/"): (Item("machine"), Item("objects")),
    Key("qom-children", "/machine"): (Item("peripheral"), Item("unattached")),
    Key("qom-properties", "/machine"): (Item("type", "string"), Item("accel", "string")),
    Key("hmp"): (Item("info", "show"), Item("system_reset", "reset")),
    Key("hmp-info"): (Item("status", "state"), Item("block", "disks")),
}


def texts(before: str, after: str = "", known: Mapping[Key, tuple[Item, ...]] = EXISTING) -> list[str]:
    """What the line is after each candidate has been taken."""
    return [before[: each.start] + each.text for each in complete(before, after, SCHEMA, known.get)]


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("device_", ["device_add", "device_del"]),
        ("status", ["query-status"]),  # nothing begins with it
        ("he", ["help"]),
        ("xyz", []),
        ("device_del ", ["device_del id="]),
        ("device_del id=", ["device_del id=disk0", 'device_del id="net 0"']),
        ("device_del id=d", ["device_del id=disk0"]),
        ("device_del id='n", ["device_del id=\"net 0\""]),
        ('device_del id="n', ['device_del id="net 0"']),
        ("device_del id=disk0 ", []),
        ("mixed on=", ["mixed on=true", "mixed on=false"]),
        ("mixed o", ["mixed on="]),
        ("mixed points.0.", ["mixed points.0.x=", "mixed points.0.y="]),
        ("blockdev-add driver=r", ["blockdev-add driver=raw"]),
        ("blockdev-add cache.", ["blockdev-add cache.direct=", "blockdev-add cache.no-flush="]),
        ("blockdev-add cache.direct=on cache.", ["blockdev-add cache.direct=on cache.no-flush="]),
        ("blockdev-add driver=raw f", ["blockdev-add driver=raw file=", "blockdev-add driver=raw file."]),
        ("blockdev-add driver=raw file=n", ["blockdev-add driver=raw file=node0"]),
        ("blockdev-add driver=raw file.driver=file file.a", ["blockdev-add driver=raw file.driver=file file.aio="]),
        ("blockdev-add driver=raw backing=nu", ["blockdev-add driver=raw backing=null"]),
        ("blockdev-add driver=raw backing=no", ["blockdev-add driver=raw backing=node0"]),
        ("blockdev-add driver=file aio=n", ["blockdev-add driver=file aio=native"]),
        ("device_add driver=virtio-b", ["device_add driver=virtio-blk-pci"]),
        ("device_add driver=virtio-blk-pci dr", ["device_add driver=virtio-blk-pci drive="]),
        ("device_add driver=virtio-blk-pci share-rw=t", ["device_add driver=virtio-blk-pci share-rw=true"]),
        ("device_add driver=virtio-blk-pci drive=no", ["device_add driver=virtio-blk-pci drive=node0"]),
        ("qom-list path=", ["qom-list path=/machine", "qom-list path=/objects", "qom-list path=/chardevs"]),
        ("qom-list path=/ma", ["qom-list path=/machine"]),
        ("qom-list path=/machine/p", ["qom-list path=/machine/peripheral"]),
        ("qom-set path=/machine property=a", ["qom-set path=/machine property=accel"]),
        ("help device_d", ["help device_del"]),
        ("help STO", ["help STOP"]),
        ("watch device_del id=d", ["watch device_del id=disk0"]),
        ("watch -n 2 query-", ["watch -n 2 query-status"]),
        ("hmp sys", ["hmp system_reset"]),
        ("hmp info s", ["hmp info status"]),
        ("events s", ["events since"]),
        ('mixed {"count": ', []),
        ("no-such x", []),
    ],
)  # fmt: skip
def test_candidates_at_the_cursor(before: str, expected: list[str]) -> None:
    assert texts(before) == expected


def test_required_arguments_come_first_and_none_is_offered_twice() -> None:
    first = texts("mixed ")
    assert first[0] == "mixed count="
    assert texts("mixed count=1 ")[0] != "mixed count=1 count="
    assert "blockdev-add driver=raw " not in texts("blockdev-add driver=raw ")
    assert not any("count" in text for text in texts("mixed ", "count=1"))  # given behind the cursor


def test_members_of_the_variant_are_offered_once_the_tag_is_given() -> None:
    assert not any("filename" in text for text in texts("blockdev-add "))
    assert "blockdev-add driver=file filename=" in texts("blockdev-add driver=file ")
    assert "blockdev-add driver=file filename=" not in texts("blockdev-add driver=null-co ")


def test_names_that_would_steer_the_terminal_are_not_offered() -> None:
    assert not any("\x1b" in text for text in texts("device_add driver=virtio-blk-pci "))
    hostile = {Key("device"): (Item("d\x1b[2J"), Item("d1"))}
    assert texts("device_del id=d", known=hostile) == ["device_del id=d1"]


def test_hmp_completes_in_its_own_prompt() -> None:
    assert [each.text for each in hmp("i", EXISTING.get)] == ["info"]
    assert [(each.text, each.start) for each in hmp("info b", EXISTING.get)] == [("block", 5)]
    assert hmp("info block -", EXISTING.get) == []


def test_a_taken_value_is_read_back_as_offered() -> None:
    for text in texts("device_del id="):
        assert parse(text, SCHEMA).arguments["id"] in ("disk0", "net 0")


@given(st.text(alphabet=st.sampled_from(list("abdefiorv.={}[]\"'\\ 01-_/\n")), max_size=30))
def test_completion_never_fails_and_replaces_only_the_end_of_the_line(text: str) -> None:
    for lead in ("", "blockdev-add ", "device_add driver=virtio-blk-pci ", "mixed ", "watch ", "hmp "):
        for each in complete(lead + text, "", SCHEMA, EXISTING.get):
            assert 0 <= each.start <= len(lead + text)


def test_a_schema_of_another_shape_is_no_schema() -> None:
    odd: list[Any] = [*ENTRIES, 5, {"meta-type": "command"}, command("odd", "nowhere"), {"name": "x", "members": [1]}]
    strange = Schema(odd)
    assert complete("odd ", "", strange, EXISTING.get) == []
    assert strange.text("nowhere") == "any"
    assert parse("odd", strange).arguments == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["a", "b", "object", "alternate", "array", "enum"]),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "meta-type", "members", "type", "variants", "tag", "case", "values", "element-type"]
            ),
            below,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(JSON, JSON, st.sampled_from(["object", "alternate", "array", "enum"]))
def test_no_schema_makes_the_shell_fail(first: Any, second: Any, meta: str) -> None:
    entries = [command("c", "a"), {"name": "a", "meta-type": meta, "members": [{"name": "b", "type": "a"}, first]}]
    entries += [
        {"name": "b", "meta-type": "object", "members": first, "variants": second, "tag": "a", "values": second}
    ]
    entries += (
        [{"name": "a", "meta-type": meta, "element-type": "a", **second}] if isinstance(second, dict) else [second]
    )
    strange = Schema(entries)
    assert strange.commands == ("c",)
    for line in ("c ", "c b=", "c b.b.b=", "c b.0.", "c b=1", 'c b={"b": [[1]]}'):
        complete(line, "", strange, EXISTING.get)
        with suppress(LineError):
            parse(line, strange)
    assert of_command("c", strange) is not None


# -- what exists -------------------------------------------------------------------------------------------------------


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.asyncio
async def test_answers_are_asked_once_and_refreshed_in_the_background_when_old() -> None:
    peer, clock = (
        TablePeer({"query-chardev": [{"label": "c0", "filename": "null"}, {"label": "c1", "filename": "pty"}]}),
        Clock(),
    )
    live, key = Live(peer, clock), Key("chardev")
    assert live.get(key) is None
    assert live.get(key) is None  # while it is asked, it is not asked again
    await live.settle([key])
    assert live.get(key) == (Item("c0", "null"), Item("c1", "pty"))
    assert len(peer.asked) == 1
    clock.now += FRESH_S + 0.1
    peer.answers["query-chardev"] = []
    assert live.get(key) is not None  # the old answer, at once
    await live.settle([key])
    assert live.get(key) == ()
    assert len(peer.asked) == 2
    live.expire()
    assert live.get(key) == ()
    assert live.asking(key)
    live.close()


@pytest.mark.asyncio
async def test_a_peer_that_does_not_answer_blocks_nothing() -> None:
    peer = TablePeer({"query-chardev": []})
    peer.hold = asyncio.Event()
    live = Live(peer)
    assert live.get(Key("chardev")) is None
    waiting = asyncio.ensure_future(live.settle([Key("chardev")]))
    await asyncio.sleep(0)
    assert not waiting.done()
    live.close()
    await asyncio.wait_for(waiting, 5)


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", [refused("no such path"), 5, [{"type": "x"}], {"a": 1}, None, ["x"]])
async def test_refusals_and_answers_of_another_shape_mean_that_nothing_exists(answer: Any) -> None:
    live, keys = Live(TablePeer({"qom-list": answer})), [Key("qom-children", "/x"), Key("device"), Key("job")]
    for key in keys:
        assert live.get(key) is None
    await live.settle(keys)
    assert [live.get(key) for key in keys] == [(), (), ()]


@pytest.mark.asyncio
async def test_the_help_of_the_monitor_for_people_is_read() -> None:
    answers = {
        "help": "balloon target -- request VM to change its memory\r\ninfo [subcommand] -- show\r\nquit|q  -- quit\r\n",
        "help info": "info block  -- disks\r\ninfo status  -- state\r\n",
    }
    peer = TablePeer({"human-monitor-command": lambda arguments: answers[arguments["command-line"]]})
    live, keys = Live(peer), [Key("hmp"), Key("hmp-info")]
    for key in keys:
        live.get(key)
    await live.settle(keys)
    assert [item.name for item in live.get(Key("hmp")) or ()] == ["balloon", "info", "quit", "q"]
    assert live.get(Key("hmp-info")) == (Item("block", "disks"), Item("status", "state"))
