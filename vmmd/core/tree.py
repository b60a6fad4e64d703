# SPDX-License-Identifier: Apache-2.0
"""The object tree: every device, bus, backend object and character device under one path, with its properties.

    /machine/peripheral/<id>    /machine/peripheral-anon/device[N]    /machine/unattached/device[N]
    /objects/<id>               /chardevs/<id>

A ``Node`` is one object. What it shows follows from declarations that exist anyway (``PropSet``, option models): its
properties are described when they are first asked for, so that a start pays nothing for them, and kept, so that a
client that reads hundreds one by one costs a dictionary look-up each.

All of it belongs to the loop's thread (or the one thread there is before the loop runs). A property's ``get`` takes the
DeviceLock itself where it reads what the guest changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vmmd.errors import DeviceNotFoundError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping


#: a path that is longer leads nowhere: links go round in circles, and every step is work
PATH_CHARS_MAX = 4096


class Property(NamedTuple):
    """A readable or writable value of an object. ``type`` is QEMU's word: "bool", "uint32", "link<iothread>"."""

    name: str
    type: str
    get: Callable[[], object] | None = None  # None: write-only
    set: Callable[[object], None] | None = None  # None: read-only; raises VmmdError
    description: str | None = None


class Link(NamedTuple):
    """A property that names another object. Has the members that a ``Property`` has."""

    name: str
    type: str
    target: Callable[[], Node | None]
    set: Callable[[object], None] | None = None
    description: str | None = None

    def get(self) -> object:
        """The other object's path, "" for none."""
        node = self.target()
        return "" if node is None else node.path


class Node:
    """One object of the tree."""

    def __init__(
        self,
        type_name: str,
        describe: Callable[[], Iterable[Property | Link]] = tuple,
        *,
        subject: object = None,
        has_links: bool = True,
    ) -> None:
        """``has_links=False``: no path leads on from here but to children, so that a search need not look."""
        self.type_name = type_name
        self._has_links = has_links
        self.subject = subject  # what it stands for: a Device, an object of ``-object``, …
        self.name = ""
        self.parent: Node | None = None
        self._describers = [describe]
        self._properties: dict[str, Property | Link] | None = None
        self._children: dict[str, Node] = {}

    @property
    def path(self) -> str:
        """The canonical path; "" for an object outside the tree."""
        if self.parent is None:
            return ""
        return f"{self.parent.path.rstrip('/')}/{self.name}"

    @property
    def children(self) -> Mapping[str, Node]:
        return self._children

    @property
    def properties(self) -> Mapping[str, Property | Link]:
        """By name: ``type`` and what it declares; children are not among them."""
        if self._properties is None:
            own = {each.name: each for describe in self._describers for each in describe()}
            self._properties = {"type": Property("type", "string", lambda: self.type_name), **own}
        return self._properties

    def entries(self) -> Iterator[tuple[str, str]]:
        """(name, type) of properties and children, as ``qom-list`` shows them."""
        for each in self.properties.values():
            yield each.name, each.type
        for name, child in self.children.items():
            yield name, f"child<{child.type_name}>"

    def get(self, name: str) -> object:
        """The value of a property, the path of a child. Raises UsageError."""
        found = self.properties.get(name)
        if found is not None:
            if found.get is None:
                raise UsageError(f"Property '{self.type_name}.{name}' is not readable")
            return found.get()
        child = self.children.get(name)
        if child is None:
            raise self.unknown(name)
        return child.path

    def set(self, name: str, value: object) -> None:
        """Change a property. Raises UsageError."""
        found = self.properties.get(name)
        if found is None and name not in self.children:
            raise self.unknown(name)
        if found is None or found.set is None:
            raise UsageError(f"Property '{self.type_name}.{name}' is not writable")
        found.set(value)

    def unknown(self, name: str) -> UsageError:
        """QEMU's sentence for a property that is not there."""
        from vmmd.errors import nearest

        near = nearest(name, [*self.properties, *self.children])
        return UsageError(f"Property '{self.type_name}.{name}' not found", f"did you mean '{near}'?" if near else None)

    def add(self, name: str, node: Node) -> Node:
        """Make ``node`` a child. A programming error when the name is taken: ids are checked before."""
        if name in self._children or node.parent is not None:
            raise ValueError(f"{self.path}/{name} is there already")
        node.name, node.parent = name, self
        self._children[name] = node
        return node

    def add_numbered(self, stem: str, node: Node) -> Node:
        """Make ``node`` a child under the first free name ``stem[N]``."""
        number = 0
        while f"{stem}[{number}]" in self._children:
            number += 1
        return self.add(f"{stem}[{number}]", node)

    def remove(self) -> None:
        """Leave the tree, with everything below. Nothing happens to one outside the tree."""
        if self.parent is not None:
            del self.parent._children[self.name]
            self.parent = None

    def extend(self, describe: Callable[[], Iterable[Property | Link]]) -> None:
        """It has further properties."""
        self._describers.append(describe)
        self.refresh()

    def refresh(self) -> None:
        """Describe the properties again when they are next asked for."""
        self._properties = None

    def step(self, name: str) -> Node | None:
        """The child, or the target of the link, of that name."""
        child = self.children.get(name)
        if child is None and self._has_links and isinstance(link := self.properties.get(name), Link):
            return link.target()
        return child


class BusNode(Node):
    """A bus: which devices sit on it, as ``child[N]`` links in order of arrival."""

    def __init__(self, type_name: str) -> None:
        super().__init__(type_name, self._list)
        self.devices: list[Node] = []

    def _list(self) -> Iterator[Property | Link]:
        yield Property("realized", "bool", lambda: True)
        for number, node in enumerate(self.devices):
            yield Link(f"child[{number}]", f"link<{node.type_name}>", lambda node=node: node)  # type: ignore[misc]

    def attach(self, node: Node) -> None:
        self.devices.append(node)
        self.refresh()

    def detach(self, node: Node) -> None:
        self.devices.remove(node)
        self.refresh()


class Folder(Node):
    """A container whose children follow a dictionary that somebody else keeps (``/chardevs``)."""

    def __init__(self, entries: Callable[[], Mapping[str, Any]], make: Callable[[Any], Node]) -> None:
        super().__init__("container")
        self._entries = entries
        self._make = make

    @property
    def children(self) -> Mapping[str, Node]:
        entries = self._entries()
        for name, node in list(self._children.items()):
            if entries.get(name) is not node.subject:
                node.remove()
        for name, subject in entries.items():
            if name not in self._children:
                node = self._make(subject)
                node.subject = subject
                self.add(name, node)
        return self._children


class _Root(Node):
    @property
    def path(self) -> str:
        return "/"


class AmbiguousPathError(UsageError):
    """A partial path that several objects have."""


class ObjectTree:
    """The tree with its fixed places."""

    def __init__(self) -> None:
        self.root = _Root("container")
        self.machine = self.root.add("machine", Node("none-machine"))
        self.objects = self.root.add("objects", Node("container"))
        self.unattached = self.machine.add("unattached", Node("container"))
        self.peripheral = self.machine.add("peripheral", Node("container"))
        self.peripheral_anon = self.machine.add("peripheral-anon", Node("container"))
        #: buses by the names that ``bus=`` takes: "pci.0", "isa.0"; the board adds its own
        self.buses: dict[str, BusNode] = {}
        self.add_bus("main-system-bus", self.unattached, "System", name="sysbus")

    def add_bus(self, bus: str, parent: Node, type_name: str, *, name: str | None = None) -> BusNode:
        """A new bus below ``parent``. ``name``: where its name in the tree is another."""
        node = self.buses[bus] = BusNode(type_name)
        parent.add(name or bus, node)
        return node

    def resolve(self, path: str) -> Node:
        """The object at an absolute path, or the only one whose path ends with a partial one.

        Raises DeviceNotFoundError, AmbiguousPathError.
        """
        parts = path[:PATH_CHARS_MAX].split("/")
        if not path.startswith("/"):
            found = _search(self.root, parts, path)
        else:
            found = _walk(self.root, parts)
        if found is None or len(path) > PATH_CHARS_MAX:
            raise DeviceNotFoundError(f"Device '{path[:PATH_CHARS_MAX]}' not found")
        return found

    def walk(self, start: Node | None = None) -> Iterator[Node]:
        """``start`` (the root) and everything below, parents first."""
        node = start or self.root
        yield node
        for child in list(node.children.values()):
            yield from self.walk(child)


def _walk(node: Node | None, parts: list[str]) -> Node | None:
    for part in parts:
        if part:
            node = None if node is None else node.step(part)
            if node is None:
                return None
    return node


def _search(start: Node, parts: list[str], path: str) -> Node | None:
    """The one object that ``parts`` lead to from any place below ``start``."""
    found = _walk(start, parts)
    for child in list(start.children.values()):
        below = _search(child, parts, path)
        if below is None:
            continue
        if found is not None:
            # QEMU-COMPAT: the sentence
            raise AmbiguousPathError(f"Path '{path}' is ambiguous", "give more of it, or all from '/' on")
        found = below
    return found
