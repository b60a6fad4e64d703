# SPDX-License-Identifier: Apache-2.0
"""The same lines to the monitors of QEMU and vmmd, and what may differ in the answers.

A row is a line: ``name {"json": "arguments"}`` for QMP, or ``!text`` for the monitor for people. vmmd's error must have
QEMU's class and be QEMU's sentence, with or without a hint behind ``; ``; other answers and the events before them must
be equal. Where vmmd differs on purpose the row says how and why; such a row fails when QEMU answers
the same after all.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.framework.qmp import QmpError
from tests.framework.vm import Vm, emulator

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Row(NamedTuple):
    line: str
    #: vmmd's answer where it differs (a dict with "error", "return" or "events": those members are compared)
    ours: dict[str, Any] | None = None
    #: and why it does
    reason: str = ""


def error(desc: str, error_class: str = "GenericError") -> dict[str, Any]:
    return {"error": {"class": error_class, "desc": desc}}


def ask(vm: Vm, line: str) -> dict[str, Any]:
    """The answer to one line, with the events that came before it."""
    seen = len(vm.qmp.events)
    answer: dict[str, Any]
    try:
        if line.startswith("!"):
            answer = {"return": vm.qmp.hmp(line[1:])}
        else:
            name, _, arguments = line.partition(" ")
            answer = {"return": vm.qmp.cmd(name, json.loads(arguments) if arguments else None)}
    except QmpError as refused:
        answer = error(refused.desc, refused.error_class)
    events = [{key: each[key] for key in ("event", "data") if key in each} for each in vm.qmp.events[seen:]]
    return {**answer, "events": events}


def run(name: str, arguments: Sequence[str], rows: Sequence[Row], directory: Path) -> list[Any]:
    """What emulator ``name`` answers to every row, in order. ``@/`` in arguments, rows and answers is ``directory``."""
    here = f"{directory}/"
    with Vm(emulator(name), [each.replace("@/", here) for each in arguments], serial=False) as vm:
        answers = [ask(vm, row.line.replace("@/", here)) for row in rows]
    return [_normal(each, here) for each in answers]


def _normal(value: Any, here: str) -> Any:
    """Without what differs from run to run: the directory, numbers of generated names, the order of members."""
    if isinstance(value, list):
        return [_normal(each, here) for each in value]
    if isinstance(value, dict):
        return {key: _normal(each, here) for key, each in value.items()}
    if isinstance(value, str):
        value = re.sub(r"#(block|net)\d+", r"#\1", value).replace(here, "@/")
        if value.startswith("json:"):
            value = "json:" + json.dumps(json.loads(value[5:]), sort_keys=True)
    return value


def check(row: Row, ours: dict[str, Any], qemus: dict[str, Any]) -> None:
    """Compare vmmd's answer with QEMU's."""
    if row.ours is not None:
        assert row.reason
        assert {key: ours.get(key) for key in row.ours} == row.ours
        assert not _same(ours, qemus), "no difference any more: drop it from the row"
    else:
        assert _same(ours, qemus), f"{row.line}\n  vmmd: {ours}\n  QEMU: {qemus}"


def _same(ours: dict[str, Any], qemus: dict[str, Any]) -> bool:
    if ours["events"] != qemus["events"]:
        return False
    if "error" in qemus:
        if ours.get("error", {}).get("class") != qemus["error"]["class"]:
            return False
        sentence = qemus["error"]["desc"]
        return bool(ours["error"]["desc"] == sentence or ours["error"]["desc"].startswith(sentence + "; "))
    text = qemus["return"]
    if isinstance(text, str) and text and isinstance(ours.get("return"), str):  # of the monitor for people
        first = text.removesuffix("\r\n")
        return bool(ours["return"] == text or ours["return"].startswith(first + "; "))
    return bool(ours.get("return") == text)
