# SPDX-License-Identifier: Apache-2.0
"""vmmd-shell: what reaches the terminal: answers, events, help, the frames of top; and that nothing steers it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.shell_support import TablePeer, refused, schema
from vmmd.safe_text import safe
from vmmd.shell.executor import Answer, EventLog
from vmmd.shell.frame import amount, bar, frame
from vmmd.shell.help import columns, of_command, overview
from vmmd.shell.render import cells, error_text, event_text, hmp_text, machine_json, one_line, pretty
from vmmd.shell.top import KVM, QUEUES, STATS, Rates, Sample, sample

SCHEMA = schema()
HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\r\x08\u202eevil\u2028\ud800\x7f"
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
OUR_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def steers(text: str) -> bool:
    """Whether a text has control characters other than the shell's own colours."""
    return STEERING.search(OUR_COLOURS.sub("", text)) is not None


def test_json_for_people_is_still_json_and_has_colours_only_when_asked() -> None:
    value = {"a": [1, True, None, "ä\n"], "b": HOSTILE, HOSTILE: {}}
    plain = pretty(value, colour=False)
    assert json.loads(plain) == value
    assert "ä" in plain
    assert not OUR_COLOURS.search(plain)
    coloured = pretty(value, colour=True)
    assert OUR_COLOURS.sub("", coloured) == plain
    assert OUR_COLOURS.search(coloured)


def test_json_for_programs_is_one_line_of_ascii() -> None:
    text = machine_json({"a": "ä\u2028", "b": [1]})
    assert text.isascii()
    assert "\n" not in text
    assert json.loads(text) == {"a": "ä\u2028", "b": [1]}


EVENT = {"event": HOSTILE, "data": {HOSTILE: HOSTILE}, "timestamp": {"seconds": 0, "microseconds": 5000}}


@pytest.mark.parametrize("colour", [False, True])
def test_strings_of_the_peer_do_not_steer_the_terminal(colour: bool) -> None:
    made = [
        pretty({HOSTILE: [HOSTILE]}, colour),
        event_text(EVENT, colour),
        error_text({"class": HOSTILE, "desc": HOSTILE}, colour),
        hmp_text(HOSTILE),
        one_line(HOSTILE),
        Answer("hmp", HOSTILE).text(colour),
        Answer("json", HOSTILE).text(colour),
        Answer("events", [{"number": 1, "event": EVENT}]).text(colour),
    ]
    for text in made:
        assert "evil" in text
        assert not steers(text)


@given(st.text())
def test_safe_texts_have_no_control_characters(text: str) -> None:
    assert not steers(safe(text))
    assert "\n" not in one_line(text)
    assert len(one_line(text, 10)) <= 10


def test_events_are_one_line_with_time_name_and_data() -> None:
    event = {"event": "STOP", "timestamp": {"seconds": 1_700_000_000, "microseconds": 123456}}
    assert re.fullmatch(r"\d\d:\d\d:20\.123 STOP", event_text(event, False))
    assert event_text({"event": "X", "data": {"a": 1}}, False, 7) == '7 --:--:-- X {"a": 1}'
    assert event_text({"event": "X", "timestamp": {"seconds": 1e300, "microseconds": 0}}, False) == "--:--:-- X"


def test_answers_for_people() -> None:
    assert Answer("json", {}).text(False) == "OK"
    assert Answer("json", []).text(False) == "[]"
    assert Answer("hmp", "VM status: running\r\n").text(False) == "VM status: running"


def test_the_log_of_events_keeps_the_newest() -> None:
    log = EventLog()
    for number in range(1, 1101):
        log.add({"event": f"E{number}"})
    assert [each.number for each in log.since(1099)] == [1099, 1100]
    assert log.since(0)[0].number == 101
    assert log.last(1) == [{"event": "E1100"}]


def test_help_tells_arguments_with_their_types() -> None:
    text = of_command("blockdev-add", SCHEMA)
    assert text is not None
    lines = text.splitlines()
    assert lines[0] == "blockdev-add"
    assert lines[1] == "  driver     required  file|raw|null-co"
    assert "  read-only  optional  bool" in lines
    assert "  cache      optional  {direct?: bool, no-flush?: bool}" in lines
    assert "  and by driver: file, raw, null-co" in lines
    assert lines[-1] == "returns {}"
    assert "features: unstable" in (of_command("mixed", SCHEMA) or "")
    assert "(may be sent out of band)" in (of_command("yank", SCHEMA) or "")
    assert of_command("SHUTDOWN", SCHEMA) == "event SHUTDOWN\n  reason  required  str"
    assert of_command("no-such", SCHEMA) is None
    assert "query-status" in overview(SCHEMA, 80)


def test_columns_read_downwards() -> None:
    assert columns(["a", "b", "c"], 8) == "a  c\nb"
    assert columns([], 8) == ""
    assert columns(["long-name"], 3) == "long-name"


# -- top ---------------------------------------------------------------------------------------------------------------


def kvm(exits: int, io: int, zapped: int) -> dict[str, Any]:
    return {
        "vendor": "vmx",
        "module": "kvm_intel",
        "paging": "ept",
        "uptime-ns": 3_725_000_000_000,
        "vcpus": [
            {
                "cpu-index": 0,
                "exits": exits,
                "exits-per-second": 7.0,
                "reasons": [
                    {"reason": "io", "count": io, "per-second": 5.0},
                    {"reason": "hlt", "count": 10, "per-second": 2.0},
                ],
                "counters": [],
            }
        ],
        "counters": [{"name": "mmu_shadow_zapped", "value": zapped}],
    }


def queues(requests: int) -> list[dict[str, Any]]:
    queue = {"size": 256, "notifications": 5, "requests": requests, "interrupts": 1, "in-flight": 64}
    return [
        {
            "qdev": "/machine/peripheral/disk0",
            "id": "disk0",
            "driver": "virtio-blk-pci",
            "queues": [{"index": 0, "enabled": True, **queue}, {"index": 1, "enabled": False, **queue}],
        }
    ]


def blockstats(read: int) -> list[dict[str, Any]]:
    stats = {"rd_operations": read, "wr_operations": 0, "flush_operations": 0, "rd_bytes": read * 4096, "wr_bytes": 0}
    return [{"device": "d0", "node-name": "n0", "stats": stats}]


def two_samples() -> Rates:
    before = {KVM: kvm(1000, 500, 3), QUEUES: queues(10), "query-blockstats": blockstats(100)}
    now = {
        "query-status": {"status": "running"},
        "query-name": {"name": "foo"},
        KVM: kvm(3000, 2300, 5),
        QUEUES: queues(50),
        "query-blockstats": blockstats(300),
        "query-memory-size-summary": {"base-memory": 256 << 20},
        "query-balloon": {"actual": 64 << 20},
    }
    return Rates(Sample(12.0, now), Sample(10.0, before))


def test_rates_are_what_grew_between_two_samples() -> None:
    rates = two_samples()
    (cpu,) = rates.cpus()
    assert (cpu.exits.total, cpu.exits.per_second) == (3000, 1000.0)
    assert [(rate.name, rate.per_second) for rate in rates.reasons()] == [("io", 900.0), ("hlt", 0.0)]
    (queue,) = rates.queues()
    assert (queue.device, queue.number, queue.in_flight, queue.requests) == ("disk0", 0, 64, 20.0)
    (disk,) = rates.disks()
    assert (disk.reads, disk.read_bytes) == (100.0, 409600.0)
    assert rates.memory() == (64 << 20, 256 << 20)
    assert [(each.name, each.per_second) for each in rates.host_counters()] == [("mmu_shadow_zapped", 1.0)]


def test_the_first_sample_has_the_peers_own_rates_and_a_restart_gives_none() -> None:
    first = Rates(Sample(1.0, {KVM: kvm(1000, 500, 3), QUEUES: queues(10)}), None)
    assert first.cpus()[0].exits.per_second == 7.0
    assert [rate.per_second for rate in first.reasons()] == [5.0, 2.0]
    assert first.queues()[0].requests == 0.0
    restarted = Rates(Sample(2.0, {KVM: kvm(10, 5, 0)}), Sample(1.0, {KVM: kvm(1000, 500, 3)}))
    assert restarted.cpus()[0].exits.per_second == 0.0


def test_qemus_statistics_give_exits_too() -> None:
    def stats(exits: int, io: int) -> list[dict[str, Any]]:
        values = [
            {"name": "exits", "value": exits},
            {"name": "io_exits", "value": io},
            {"name": "halt_wakeup", "value": 1},
        ]
        return [{"provider": "kvm", "qom-path": "/machine/unattached/device[0]", "stats": values}]

    rates = Rates(Sample(2.0, {STATS: stats(300, 100)}), Sample(1.0, {STATS: stats(100, 50)}))
    assert rates.cpus()[0].exits.per_second == 200.0
    assert [(rate.name, rate.per_second) for rate in rates.reasons()] == [("io", 50.0)]


def test_a_frame_shows_every_part_with_bars() -> None:
    text = frame(two_samples(), "7.2.0 (vmmd)", [{"event": "STOP"}], 100, colour=False)
    assert not OUR_COLOURS.search(text)
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[0] == "foo  running  7.2.0 (vmmd)  kvm_intel, ept, up 1:02:05"
    titles = ["vCPUs", "exits by reason", "virtqueues", "disks", "memory", "KVM", "events"]
    assert [line for line in lines if line in titles] == titles
    row = {line.split()[0]: line for line in lines if line}
    assert re.search(r"io +█{24} +900/s +2300", row["io"])
    assert re.search(r"disk0 0 \(virtio-blk… +█{6} +64/256 +20 req/s", row["disk0"])
    assert "400 KiB/s" in row["d0"]
    assert re.search(r"█{6} +64 MiB of 256 MiB", row["guest"])
    assert row["--:--:--"] == "  --:--:-- STOP"
    assert max(cells(line) for line in lines) <= 100


def test_disks_and_queues_without_an_id_can_be_told_apart() -> None:
    def disk(qdev: str, node: str, device: str = "") -> dict[str, Any]:
        return {"device": device, "qdev": f"{qdev}/virtio-backend", "node-name": node, "stats": {"rd_operations": 1}}

    anonymous = "/machine/peripheral-anon/device"
    disks = [
        disk("/machine/peripheral/vd0", "n0"),
        disk(f"{anonymous}[0]", "n1"),
        disk(f"{anonymous}[1]", "#block005"),
        disk(f"{anonymous}[2]", "#block006", "virtio0"),
        disk("/machine/unattached/device[1]", "#block007"),
    ]
    queue = {"index": 0, "enabled": True}
    devices = [{"qdev": f"{anonymous}[{n}]", "driver": "blk", "queues": [queue]} for n in range(2)]
    answers = {"query-blockstats": disks, QUEUES: devices}
    rates = Rates(Sample(1.0, answers), None)
    assert [each.name for each in rates.disks()] == ["vd0", "n1", "device[1]", "virtio0", "device[1]"]
    assert [each.device for each in rates.queues()] == ["device[0]", "device[1]"]
    disks_then = [{**each, "stats": {"rd_operations": n}} for n, each in enumerate(disks)]
    grown = Rates(Sample(2.0, {"query-blockstats": [{**each, "stats": {"rd_operations": 9}} for each in disks]}),
                  Sample(1.0, {"query-blockstats": disks_then}))  # fmt: skip
    assert [each.reads for each in grown.disks()] == [9.0, 8.0, 7.0, 6.0, 5.0]  # also of two with the same name


@pytest.mark.parametrize("width", [20, 80, 200])
def test_a_frame_fits_the_terminal_from_80_columns_on(width: int) -> None:
    text = frame(two_samples(), "7.2", [], width, colour=False)
    assert max(cells(line) for line in text.splitlines()) <= max(width, 60)
    assert "900/s" in text


def test_a_frame_of_a_peer_with_nothing_is_a_frame() -> None:
    assert frame(Rates(Sample(1.0, {}), None), "", [], 80, colour=False).split() == ["(no", "name)", "?"]


def test_hostile_answers_make_a_frame_that_does_not_steer() -> None:
    answers = {
        "query-name": {"name": HOSTILE},
        "query-status": {"status": HOSTILE},
        KVM: {
            "vendor": HOSTILE,
            "paging": 5,
            "vcpus": [{"reasons": [{"reason": HOSTILE, "count": 1}]}, 7],
            "counters": 3,
        },
        QUEUES: [{"qdev": HOSTILE, "driver": HOSTILE, "queues": [{"enabled": True}, None]}, "x"],
        "query-blockstats": [{"device": HOSTILE}, {"stats": 5}],
        "query-cpus-fast": [{"cpu-index": HOSTILE, "thread-id": HOSTILE}],
    }
    shapes = (answers, {**answers, KVM: None}, dict.fromkeys(answers, HOSTILE), {key: {} for key in answers})
    for given_answers in shapes:
        text = frame(Rates(Sample(1.0, given_answers), None), HOSTILE, [EVENT], 80, colour=True)
        assert not steers(text)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.5, "0.5"), (99.95, "100.0"), (9999, "9999"), (12345, "12.3k"), (5e9, "5G")]
)
def test_amounts_are_short(value: float, text: str) -> None:
    assert amount(value) == text


def test_bars_are_proportional_to_an_eighth_of_a_column() -> None:
    assert bar(5, 10, 4) == "██  "
    assert bar(1, 32, 4) == "▏   "
    assert bar(0, 0, 4) == "    "
    assert bar(20, 10, 4) == "████"


@pytest.mark.asyncio
async def test_a_sample_asks_what_the_peer_has_and_leaves_out_what_fails() -> None:
    peer = TablePeer(
        {"query-status": {"status": "running"}, "query-balloon": refused("no balloon"), KVM: {}, STATS: []}
    )
    found = await sample(peer)
    assert found.answers == {"query-status": {"status": "running"}, KVM: {}}
    assert STATS not in [name for name, _arguments in peer.asked]  # vmmd's own query says more
