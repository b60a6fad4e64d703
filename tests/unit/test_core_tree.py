# SPDX-License-Identifier: Apache-2.0
"""core.tree: paths, partial paths, links, and what leaves the tree."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vmmd.core.tree import AmbiguousPathError, BusNode, Folder, Link, Node, ObjectTree, Property
from vmmd.errors import DeviceNotFoundError, UsageError


@pytest.fixture
def tree() -> ObjectTree:
    tree = ObjectTree()
    tree.peripheral.add("disk0", Node("virtio-blk-pci")).add("virtio-backend", Node("virtio-blk-device"))
    tree.peripheral.add("disk1", Node("virtio-blk-pci")).add("virtio-backend", Node("virtio-blk-device"))
    tree.objects.add("m0", Node("memory-backend-ram"))
    return tree


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("/", "/"), ("/machine", "/machine"), ("//machine/", "/machine"), ("machine", "/machine"),
        ("disk0", "/machine/peripheral/disk0"), ("peripheral//disk1", "/machine/peripheral/disk1"),
        ("disk1/virtio-backend", "/machine/peripheral/disk1/virtio-backend"), ("m0", "/objects/m0"),
    ],
)  # fmt: skip
def test_paths(tree: ObjectTree, path: str, canonical: str) -> None:
    assert tree.resolve(path).path == canonical


@pytest.mark.parametrize("path", ["/nix", "nix", "/disk0", "/machine/peripheral/disk0/nix", ".", "/machine/../objects"])
def test_paths_that_lead_nowhere(tree: ObjectTree, path: str) -> None:
    with pytest.raises(DeviceNotFoundError, match=r"Device '.*' not found"):
        tree.resolve(path)


@pytest.mark.parametrize("path", ["virtio-backend", ""])
def test_ambiguous_paths(tree: ObjectTree, path: str) -> None:
    with pytest.raises(AmbiguousPathError, match=r"Path '.*' is ambiguous"):
        tree.resolve(path)


def test_links_lead_to_other_objects(tree: ObjectTree) -> None:
    bus = BusNode("PCI")
    tree.machine.add("pci.0", bus)
    disk = tree.resolve("disk0")
    bus.attach(disk)
    assert tree.resolve("/machine/pci.0/child[0]") is disk
    assert bus.get("child[0]") == "/machine/peripheral/disk0"
    assert ("child[0]", "link<virtio-blk-pci>") in list(bus.entries())
    bus.detach(disk)
    with pytest.raises(UsageError, match=r"Property 'PCI.child\[0\]' not found"):
        bus.get("child[0]")
    assert Link("l", "link<x>", lambda: None).get() == ""


def test_properties_are_described_once() -> None:
    asked: list[int] = []

    def describe() -> list[Property]:
        asked.append(1)
        return [Property("a", "int", lambda: 5), Property("w", "int", None, lambda value: None)]

    node = Node("thing", describe)
    assert asked == []
    assert (node.get("a"), node.get("type"), node.get("a")) == (5, "thing", 5)
    assert asked == [1]
    for use, sentence in (
        (lambda: node.get("b"), "Property 'thing.b' not found"),
        (lambda: node.get("w"), "Property 'thing.w' is not readable"),
        (lambda: node.set("a", 1), "Property 'thing.a' is not writable"),
        (lambda: node.set("b", 1), "Property 'thing.b' not found"),
    ):
        with pytest.raises(UsageError, match=sentence):
            use()


def test_numbered_names_are_used_again(tree: ObjectTree) -> None:
    first, second = Node("a"), Node("b")
    tree.unattached.add_numbered("device", first)
    assert tree.unattached.add_numbered("device", second).path == "/machine/unattached/device[1]"
    first.remove()
    assert first.path == ""
    assert tree.unattached.add_numbered("device", Node("c")).path == "/machine/unattached/device[0]"
    with pytest.raises(ValueError, match="is there already"):
        tree.unattached.add("device[1]", Node("d"))


def test_a_folder_follows_its_dictionary() -> None:
    entries: dict[str, Any] = {"c0": SimpleNamespace(kind="null")}
    tree = ObjectTree()
    folder = tree.root.add("chardevs", Folder(lambda: entries, lambda each: Node(f"chardev-{each.kind}")))
    assert list(folder.entries()) == [("type", "string"), ("c0", "child<chardev-null>")]
    entries["c0"] = SimpleNamespace(kind="file")  # another one under the same id
    assert tree.resolve("/chardevs/c0").type_name == "chardev-file"
    del entries["c0"]
    with pytest.raises(DeviceNotFoundError):
        tree.resolve("/chardevs/c0")


def test_a_path_through_a_circle_of_links_ends(tree: ObjectTree) -> None:
    bus = BusNode("PCI")
    tree.machine.add("bus", bus)
    disk = Node("disk", lambda: [Link("parent_bus", "link<bus>", lambda: bus)])
    bus.attach(tree.machine.add("disk", disk))
    assert tree.resolve("/machine/disk" + "/parent_bus/child[0]" * 100) is disk
    with pytest.raises(DeviceNotFoundError) as caught:
        tree.resolve("/machine/disk" + "/parent_bus/child[0]" * 100_000)
    assert len(str(caught.value)) < 5000


def test_the_walk_has_parents_first(tree: ObjectTree) -> None:
    paths = [node.path for node in tree.walk(tree.machine)]
    assert paths[0] == "/machine"
    assert paths.index("/machine/peripheral/disk0") < paths.index("/machine/peripheral/disk0/virtio-backend")
