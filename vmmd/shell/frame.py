# SPDX-License-Identifier: Apache-2.0
"""One frame of ``top`` as text: tables and bars by rich. Pure; the same for the terminal, scripts and tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from vmmd.shell.render import ansi, event_text, one_line
from vmmd.shell.top import KVM, NS_PER_S, Rates
from vmmd.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BAR_CELLS_MIN = 8
BAR_CELLS_MAX = 24
NAME_CELLS = 22
NUMBER_CELLS = 11
#: columns that a row has beside its bar: the name, four numbers, gaps
ROW_CELLS = NAME_CELLS + 4 * NUMBER_CELLS + 6
REASONS_SHOWN = 10
ROWS_SHOWN = 8
EVENTS_SHOWN = 6
COUNTERS_SHOWN = 8
#: a terminal narrower than this cuts lines
WIDTH_MIN = 60
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(value: float, full: float, cells: int) -> str:
    """A bar of ``cells`` columns, in eighths of a column."""
    share = min(max(value / full, 0.0), 1.0) if full > 0 else 0.0
    eighths = round(share * cells * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(cells)


def amount(value: float) -> str:
    """A rate in at most six characters: ``0``, ``12.3``, ``4567``, ``89.0k``."""
    for limit, divisor, suffix in ((1e4, 1, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M"), (float("inf"), 1e9, "G")):
        if value < limit:
            scaled = value / divisor
            return (f"{scaled:.1f}" if scaled < 100 and scaled != int(scaled) else f"{scaled:.0f}") + suffix
    return "?"


def frame(rates: Rates, version: str, events: Sequence[dict[str, Any]], width: int, colour: bool) -> str:
    """The whole picture."""
    parts: list[Any] = [_head(rates, version)]
    cells = min(max(width - ROW_CELLS, BAR_CELLS_MIN), BAR_CELLS_MAX)
    for title, made in (
        ("vCPUs", _cpus(rates, cells)),
        ("exits by reason", _reasons(rates, cells)),
        ("virtqueues", _queues(rates, cells)),
        ("disks", _disks(rates, cells)),
        ("memory", _memory(rates, cells)),
        ("KVM", _counters(rates)),
        ("events", _events(events, colour)),
    ):
        if made is not None:
            parts += [Text(""), Text(title, style="bold cyan"), made]
    return ansi(Group(*parts), max(width, WIDTH_MIN), colour)


def _grid(numbers: int, bar_cells: int) -> Table:
    """A table without lines: a name, a bar, then columns of numbers."""
    table = Table.grid(padding=(0, 1))
    table.add_column(width=NAME_CELLS, no_wrap=True)
    if bar_cells:
        table.add_column(width=bar_cells, no_wrap=True, style="green")
    for _column in range(numbers):
        table.add_column(min_width=NUMBER_CELLS, justify="right", no_wrap=True)
    return table


def _name(text: str) -> Text:
    return Text("  " + one_line(text, NAME_CELLS - 2))


def _head(rates: Rates, version: str) -> Text:
    answers = rates.now.answers
    name = one_line(_text(answers.get("query-name"), "name") or "(no name)")
    status = one_line(_text(answers.get("query-status"), "status") or "?")
    head = Text(f"{name}  ", style="bold")
    head.append(status, style="green" if status == "running" else "yellow")
    head.append(f"  {one_line(version)}", style="dim")
    kvm = answers.get(KVM)
    if isinstance(kvm, dict):
        facts = [_text(kvm, "module") or _text(kvm, "vendor"), _text(kvm, "paging")]
        uptime = kvm.get("uptime-ns")
        if isinstance(uptime, int):
            facts.append(f"up {_duration(uptime // NS_PER_S)}")
        head.append("  " + one_line(", ".join(each for each in facts if each not in ("", "unknown"))), style="dim")
    return head


def _text(value: Any, key: str) -> str:
    return str(value.get(key, "")) if isinstance(value, dict) else ""


def _duration(seconds: int) -> str:
    minutes, seconds = divmod(max(0, seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def _more(table: Table, rows: int) -> Table:
    if rows > ROWS_SHOWN:
        table.add_row(f"  … {rows - ROWS_SHOWN} more")
    return table


def _cpus(rates: Rates, cells: int) -> Table | None:
    cpus = rates.cpus()
    table = _grid(2, cells)
    if cpus:
        full = max(cpu.exits.per_second for cpu in cpus)
        for cpu in cpus[:ROWS_SHOWN]:
            shown = bar(cpu.exits.per_second, full, cells)
            table.add_row(f"  {cpu.number}", shown, f"{amount(cpu.exits.per_second)}/s", amount(cpu.exits.total))
        return _more(table, len(cpus))
    answer = rates.now.answers.get("query-cpus-fast")
    known = [cpu for cpu in answer if isinstance(cpu, dict)] if isinstance(answer, list) else []
    for each in known[:ROWS_SHOWN]:
        table.add_row(_name(str(each.get("cpu-index"))), "", one_line(f"thread {each.get('thread-id')}", NAME_CELLS))
    return _more(table, len(known)) if known else None


def _reasons(rates: Rates, cells: int) -> Table | None:
    reasons = [rate for rate in rates.reasons() if rate.total][:REASONS_SHOWN]
    if not reasons:
        return None
    table = _grid(2, cells)
    full = max(rate.per_second for rate in reasons)
    for rate in reasons:
        shown = bar(rate.per_second, full, cells)
        table.add_row(_name(rate.name), shown, f"{amount(rate.per_second)}/s", amount(rate.total))
    return table


def _queues(rates: Rates, cells: int) -> Table | None:
    queues = rates.queues()
    if not queues:
        return None
    table = _grid(4, cells)
    for queue in queues[:ROWS_SHOWN]:
        table.add_row(
            _name(
                f"{queue.device} {queue.number} ({queue.driver})" if queue.driver else f"{queue.device} {queue.number}"
            ),
            bar(queue.in_flight, queue.size, cells),
            f"{queue.in_flight}/{queue.size}",
            f"{amount(queue.requests)} req/s",
            f"{amount(queue.notifications)} kick/s",
            f"{amount(queue.interrupts)} irq/s",
        )
    return _more(table, len(queues))


def _disks(rates: Rates, cells: int) -> Table | None:
    disks = rates.disks()
    if not disks:
        return None
    table = _grid(4, cells)
    full = max(disk.read_bytes + disk.written_bytes for disk in disks)
    for disk in disks[:ROWS_SHOWN]:
        table.add_row(
            _name(disk.name),
            bar(disk.read_bytes + disk.written_bytes, full, cells),
            f"{amount(disk.reads)} rd/s",
            f"{format_size(int(disk.read_bytes))}/s",
            f"{amount(disk.writes)} wr/s",
            f"{format_size(int(disk.written_bytes))}/s",
        )
    return _more(table, len(disks))


def _memory(rates: Rates, cells: int) -> Table | None:
    memory = rates.memory()
    if memory is None:
        return None
    has, given = memory
    table = _grid(1, cells)
    table.add_row("  guest", bar(has, given, cells), f"{format_size(has)} of {format_size(given)}")
    return table


def _counters(rates: Rates) -> Table | None:
    found = [rate for rate in rates.host_counters() if rate.total]
    if not found:
        return None
    table = _grid(2, 0)
    for rate in sorted(found, key=lambda rate: (-rate.per_second, -rate.total))[:COUNTERS_SHOWN]:
        table.add_row(_name(rate.name), f"{amount(rate.per_second)}/s", amount(rate.total))
    return table


def _events(events: Iterable[dict[str, Any]], colour: bool) -> Text | None:
    lines = [event_text(event, colour) for event in list(events)[-EVENTS_SHOWN:]]
    if not lines:
        return None
    text = Text.from_ansi("\n".join(f"  {line}" for line in lines))
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
