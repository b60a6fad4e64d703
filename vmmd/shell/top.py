# SPDX-License-Identifier: Apache-2.0
"""``top``: what is measured, and rates between two measurements. Whatever the peer lacks is left out.

vCPU exits come from vmmd's own query or, with QEMU, from KVM's statistics (query-stats). No terminal here.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from vmmd.shell.errors import ShellError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.shell.live import Peer

QUERY_TIMEOUT_S = 2.0
NS_PER_S = 1_000_000_000
KVM = "__org.vmmd_query-kvm"
QUEUES = "__org.vmmd_query-virtqueues"
STATS = "query-stats"
QUERIES: dict[str, dict[str, Any]] = {
    "query-status": {},
    "query-name": {},
    "query-cpus-fast": {},
    "query-blockstats": {},
    "query-memory-size-summary": {},
    "query-balloon": {},
    KVM: {},
    QUEUES: {},
    STATS: {"target": "vcpu"},
}
#: below this, devices are named by their ids
PERIPHERAL = "/machine/peripheral/"
#: KVM's per-vCPU statistics that are exits, by the names query-stats gives them
_EXIT_STATS_END = "_exits"


class Sample(NamedTuple):
    """Answers of the peer at one moment, by command; a command that failed is absent."""

    at_s: float
    answers: dict[str, Any]


class Rate(NamedTuple):
    """A named counter and its growth."""

    name: str
    total: int
    per_second: float


class Cpu(NamedTuple):
    """A vCPU's exits."""

    number: int
    exits: Rate
    reasons: tuple[Rate, ...]


class Queue(NamedTuple):
    """A virtqueue that the guest uses."""

    device: str
    driver: str
    number: int
    size: int
    in_flight: int
    requests: float
    notifications: float
    interrupts: float


class Disk(NamedTuple):
    """Rates of a block device, per second."""

    name: str
    reads: float
    writes: float
    flushes: float
    read_bytes: float
    written_bytes: float


async def sample(peer: Peer) -> Sample:
    """Ask everything that the peer has, at once."""

    async def ask(command: str) -> tuple[str, Any]:
        try:
            return command, await peer.execute(command, QUERIES[command], timeout_s=QUERY_TIMEOUT_S)
        except ShellError:
            return command, None

    wanted = [name for name in QUERIES if peer.has(name) and not (name == STATS and peer.has(KVM))]
    answers = await asyncio.gather(*(ask(name) for name in wanted))
    return Sample(time.monotonic(), {name: answer for name, answer in answers if answer is not None})


class Rates:
    """Two samples, and what grew between them; without an earlier one rates are the peer's own, or 0."""

    def __init__(self, now: Sample, before: Sample | None) -> None:
        self.now = now
        self._before = before
        self._seconds = now.at_s - before.at_s if before is not None else 0.0

    def _per_second(self, count: float, earlier: Any, otherwise: float = 0.0) -> float:
        if self._seconds <= 0 or not isinstance(earlier, int | float):
            return otherwise
        return max(0.0, (count - earlier) / self._seconds)  # a reset of the peer makes counters smaller

    def _earlier(self, command: str) -> Any:
        return self._before.answers.get(command) if self._before is not None else None

    def cpus(self) -> list[Cpu]:
        """vCPUs with their exits; empty when the peer does not count them."""
        now, before = (_vcpus(answers) for answers in (self.now.answers, self._before.answers if self._before else {}))
        return [self._cpu(index, counters, before.get(index, {})) for index, counters in now.items()]

    def _cpu(self, index: int, now: dict[str, tuple[int, float]], before: dict[str, tuple[int, float]]) -> Cpu:
        rates = [
            Rate(name, count, self._per_second(count, before.get(name, (0 if before else None, 0))[0], own))
            for name, (count, own) in now.items()
        ]
        total = next((rate for rate in rates if rate.name == ""), Rate("", 0, 0.0))
        reasons = sorted((rate for rate in rates if rate.name), key=lambda rate: (-rate.per_second, -rate.total))
        return Cpu(index, total, tuple(reasons))

    def reasons(self) -> list[Rate]:
        """Exits by reason, of all vCPUs together, most frequent first."""
        found: dict[str, Rate] = {}
        for cpu in self.cpus():
            for rate in cpu.reasons:
                sofar = found.get(rate.name, Rate(rate.name, 0, 0.0))
                found[rate.name] = Rate(rate.name, sofar.total + rate.total, sofar.per_second + rate.per_second)
        return sorted(found.values(), key=lambda rate: (-rate.per_second, -rate.total))

    def queues(self) -> list[Queue]:
        """Virtqueues that are enabled."""
        earlier = {(path, queue["index"]): queue for path, _name, _driver, queue in _queues(self._earlier(QUEUES))}
        found = []
        for path, device, driver, queue in _queues(self.now.answers.get(QUEUES)):
            old = earlier.get((path, queue["index"]), {})
            rates = [
                self._per_second(queue[name], old.get(name)) for name in ("requests", "notifications", "interrupts")
            ]
            found.append(Queue(device, driver, queue["index"], queue["size"], queue["in-flight"], *rates))
        return found

    def disks(self) -> list[Disk]:
        """Block devices."""
        earlier = {key: stats for key, _name, stats in _disks(self._earlier("query-blockstats"))}
        counters = ("rd_operations", "wr_operations", "flush_operations", "rd_bytes", "wr_bytes")
        return [
            Disk(name, *(self._per_second(_int(stats.get(key)), earlier.get(disk, {}).get(key)) for key in counters))
            for disk, name, stats in _disks(self.now.answers.get("query-blockstats"))
        ]

    def memory(self) -> tuple[int, int] | None:
        """Bytes that the guest has now (less the balloon), and those it was given."""
        summary = _dict(self.now.answers.get("query-memory-size-summary"))
        total = _int(summary.get("base-memory")) + _int(summary.get("plugged-memory"))
        if not total:
            return None
        return _int(_dict(self.now.answers.get("query-balloon")).get("actual")) or total, total

    def host_counters(self) -> list[Rate]:
        """KVM's own counters of the whole machine, as vmmd tells them."""
        earlier = _counters(_dict(self._earlier(KVM)))
        now = _counters(_dict(self.now.answers.get(KVM)))
        return [Rate(name, value, self._per_second(value, earlier.get(name))) for name, value in now.items()]


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> Iterable[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _int(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _float(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _counters(kvm: dict[str, Any]) -> dict[str, int]:
    return {str(each.get("name")): _int(each.get("value")) for each in _dicts(kvm.get("counters"))}


def _vcpus(answers: dict[str, Any]) -> dict[int, dict[str, tuple[int, float]]]:
    """Per vCPU: count and the peer's rate by reason; "" is the sum."""
    if KVM in answers:
        return {
            _int(cpu.get("cpu-index")): {
                "": (_int(cpu.get("exits")), _float(cpu.get("exits-per-second"))),
                **{
                    str(each.get("reason")): (_int(each.get("count")), _float(each.get("per-second")))
                    for each in _dicts(cpu.get("reasons"))
                },
            }
            for cpu in _dicts(_dict(answers[KVM]).get("vcpus"))
        }
    return {index: _exits(cpu) for index, cpu in enumerate(_dicts(answers.get(STATS))) if _exits(cpu)}


def _exits(cpu: dict[str, Any]) -> dict[str, tuple[int, float]]:
    """Exits in one vCPU's answer to query-stats."""
    stats = {str(each.get("name")): _int(each.get("value")) for each in _dicts(cpu.get("stats"))}
    made = {
        name.removesuffix(_EXIT_STATS_END): (value, 0.0)
        for name, value in stats.items()
        if name.endswith(_EXIT_STATS_END)
    }
    return {"": (stats["exits"], 0.0), **made} if "exits" in stats else {}


def _queues(answer: Any) -> list[tuple[str, str, str, dict[str, int]]]:
    """Enabled virtqueues: path and name of the device, its driver, counters."""
    found: list[tuple[str, str, str, dict[str, int]]] = []
    names = ("index", "size", "notifications", "requests", "interrupts", "in-flight")
    for device in _dicts(answer):
        path = str(device.get("qdev", "?"))
        name = str(device.get("id") or _last_part(path))
        driver = str(device.get("driver", ""))
        enabled = [queue for queue in _dicts(device.get("queues")) if queue.get("enabled")]
        found += [(path, name, driver, {key: _int(queue.get(key)) for key in names}) for queue in enabled]
    return found


def _disks(answer: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """Block devices: what tells one from all others, a short name, counters."""
    found = []
    for each in _dicts(answer):
        device, path, node = (str(each.get(key) or "") for key in ("device", "qdev", "node-name"))
        found.append((device or path or node, _disk_name(device, path, node), _dict(each.get("stats"))))
    return found


def _disk_name(device: str, path: str, node: str) -> str:
    """The name that the user gave, if any: of the drive, the device, the node."""
    chosen = device or (_last_part(path) if path.startswith(PERIPHERAL) else "")
    return chosen or (node if not node.startswith("#") else "") or _last_part(path) or node or "?"


def _last_part(path: str) -> str:
    """A device's name in the object tree, of the path of the device or of its virtio part."""
    return path.removesuffix("/virtio-backend").rpartition("/")[2]
