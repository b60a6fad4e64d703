# SPDX-License-Identifier: Apache-2.0
"""``help``, and ``info`` without a topic: one line per command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.hmp.registry import COMMANDS, TOPICS, hmp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor


def _names(monitor: HumanMonitor, words: list[str]) -> Iterable[str]:
    if len(words) == 1:
        return COMMANDS
    return TOPICS if words[:-1] == ["info"] else ()


def _topics_only(monitor: HumanMonitor, words: list[str]) -> Iterable[str]:
    return TOPICS if len(words) == 1 else ()


@hmp("help", "?", params="[cmd]", help="list the commands, or explain one", complete=_names)
def show_help(monitor: HumanMonitor, arguments: Arguments) -> str:
    name = arguments.word()
    if not name:
        return "".join(sorted({command.usage for command in COMMANDS.values()}))
    if name != "info":
        return COMMANDS[name].usage if name in COMMANDS else f"unknown command: '{name}'\n"
    topic = arguments.word()
    if not topic:
        return _topics()
    return f"info {TOPICS[topic].usage}" if topic in TOPICS else f"unknown command: 'info {topic}'\n"


@hmp(
    "info",
    params="[topic]",
    help="show something of the machine; without a topic, list the topics",
    complete=_topics_only,
)
def info(monitor: HumanMonitor, arguments: Arguments) -> str:
    # with a topic, the topic's own handler is called
    return _topics()


@hmp("info history", help="lines that were given to this monitor")
def info_history(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    return "".join(f"{number}: '{line}'\n" for number, line in enumerate(monitor.history))


def _topics() -> str:
    return "".join(f"info {usage}" for usage in sorted({command.usage for command in TOPICS.values()}))
