# SPDX-License-Identifier: Apache-2.0
"""Objects: the tree, their properties, making and removing them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from vmmd.core.props import BOOL, parse_int
from vmmd.errors import UsageError, VmmdError
from vmmd.qmp.hmp.completion import option_words
from vmmd.qmp.hmp.registry import forward, hmp
from vmmd.qmp.json_reader import read_json
from vmmd.qmp.wire import ParseFault

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmmd.core.tree import Node
    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor

_INTEGERS = ("int", "uint", "size")


def _paths(monitor: HumanMonitor, words: list[str]) -> Iterable[str]:
    return (node.path for node in monitor.vm.qom.walk())


def _paths_and_names(monitor: HumanMonitor, words: list[str]) -> Iterable[str]:
    words = [word for word in words if word != "-j"]
    if len(words) <= 1:
        return _paths(monitor, words)
    return [name for name, _ in monitor.vm.qom.resolve(words[0]).entries()] if len(words) == 2 else ()


def _objects(monitor: HumanMonitor, words: list[str]) -> Iterable[str]:
    return [each.id for each in monitor.vm.objects]


@hmp("info qom-tree", params="[path]", help="the tree of all objects, or of one", complete=_paths)
def info_qom_tree(monitor: HumanMonitor, arguments: Arguments) -> str:
    path = arguments.word() or "/machine"
    arguments.done()
    try:
        start = monitor.vm.qom.resolve(path)
    except VmmdError:
        return f"Path '{path}' could not be resolved.\n"
    return "".join(f"{line}\n" for line in _tree(start, 0))


def _tree(node: Node, depth: int) -> Iterator[str]:
    yield f"{'':{2 * depth}}/{node.name} ({node.type_name})"
    for name in sorted(node.children):
        yield from _tree(node.children[name], depth + 1)


@hmp("info memdev", help="memory backends")
async def info_memdev(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    lines = []
    for each in await monitor.qmp("query-memdev"):
        lines += [f"memory backend: {each['id']}", f"  size:  {each['size']}"]
        lines += [
            f"  {name}: {'true' if each[name] else 'false'}"
            for name in ("merge", "dump", "prealloc", "share", "reserve")
        ]
        lines += [f"  policy: {each['policy']}", "  host nodes: " + " ".join(map(str, each["host-nodes"]))]
    return "".join(f"{line}\n" for line in [*lines, ""])


@hmp("info iothreads", help="I/O threads")
async def info_iothreads(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    lines = []
    for each in await monitor.qmp("query-iothreads"):
        lines += [f"{each['id']}:", f"  thread_id={each['thread-id']}"]
        lines += [f"  {name}={each[name]}" for name in ("poll-max-ns", "poll-grow", "poll-shrink", "aio-max-batch")]
    return "".join(f"{line}\n" for line in lines)


@hmp("qom-list", params="path", help="properties and children of an object", complete=_paths)
async def qom_list(monitor: HumanMonitor, arguments: Arguments) -> str:
    path = arguments.word()
    arguments.done()
    if not path:
        return "/\n"
    return "".join(f"{each['name']} ({each['type']})\n" for each in await monitor.qmp("qom-list", {"path": path}))


@hmp("qom-get", params="path property", help="value of a property of an object", complete=_paths_and_names)
async def qom_get(monitor: HumanMonitor, arguments: Arguments) -> str:
    path, name = arguments.string(), arguments.string()
    arguments.done()
    value = await monitor.qmp("qom-get", {"path": path, "property": name})
    return json.dumps(value, indent=4, ensure_ascii=False) + "\n"


@hmp(
    "qom-set",
    params="[-j] path property value",
    help="change a property of an object; -j: the value is JSON",
    complete=_paths_and_names,
)
async def qom_set(monitor: HumanMonitor, arguments: Arguments) -> str:
    as_json = "j" in arguments.flags("j")
    path, name = arguments.string(), arguments.string()
    text = arguments.rest()
    kind = dict(monitor.vm.qom.resolve(path).entries()).get(name, "string")
    value = _from_json(text) if as_json else _from_text(name, kind, text)
    await monitor.qmp("qom-set", {"path": path, "property": name, "value": value})
    return ""


def _from_json(text: str) -> object:
    try:
        return read_json(text.encode("utf-8", "replace"))
    except ParseFault as error:
        raise UsageError(str(error)) from None


def _from_text(name: str, kind: str, text: str) -> object:
    """A word as a value of a property's type. Raises UsageError."""
    if kind == "bool":
        try:
            return BOOL.parse(text)
        except ValueError:
            raise UsageError(f"Parameter '{name}' expects 'on' or 'off'") from None
    if not kind.startswith(_INTEGERS):
        return text
    try:
        return parse_int(text)
    except ValueError:
        raise UsageError(f"Parameter '{name}' expects {'int64' if kind == 'int' else kind}") from None


def _types(monitor: HumanMonitor, words: list[str]) -> Iterable[str]:
    from vmmd.options.objects import OBJECTS

    def keys(kind: str) -> Iterable[str]:
        return (each.wire_name for each in OBJECTS[kind].each()) if kind in OBJECTS else ()

    return option_words(words[0], OBJECTS, keys) if len(words) == 1 else ()


@hmp("object_add", params="[qom-type=]type,id=str[,prop=value][,...]", help="make an object", complete=_types)
async def object_add(monitor: HumanMonitor, arguments: Arguments) -> str:
    from vmmd.options.draft import HelpRequested
    from vmmd.options.help import render
    from vmmd.options.objects import LaterObject
    from vmmd.options.read_backends import object_options
    from vmmd.qmp.commands.qom import make_object

    text = arguments.rest()
    topic, comma, asked = text.partition(",")
    if topic == "help" or (comma and asked == "help"):
        return render(HelpRequested("object", topic if comma else None), cpu_text=str)
    try:
        options = object_options("object_add", text)
    except UsageError as error:
        error.desc = error.desc.partition(": ")[2]  # without the command and what was given
        raise
    if isinstance(options, LaterObject):
        raise UsageError(f"{options.kind}: not available in this version")
    await make_object(monitor.vm, options)
    return ""


forward("object_del", to="object-del", words="id", help="remove an object that nobody uses", complete=_objects)
