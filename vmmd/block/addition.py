# SPDX-License-Identifier: Apache-2.0
"""Adding a ``-blockdev`` or a ``-drive`` to the graph, all or nothing: nodes are made, opened from the bottom up, and
enter the graph together when everything has succeeded. Their names are taken from the beginning.

Loop thread; opening an image, looking at its head and closing it are the steps that may block (``block.steps``).
"""

from __future__ import annotations

import stat
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, TypeVar

from vmmd.block import options as opts
from vmmd.block.base import BlockNode, NodeConfig
from vmmd.block.drives import Drive, MediumMode
from vmmd.errors import BackendError, UsageError
from vmmd.messages import messages

if TYPE_CHECKING:
    from vmmd.block.file import FileNode
    from vmmd.block.graph import BlockGraph
    from vmmd.block.steps import Steps

NODE_NAME_MAX = 31

MadeT = TypeVar("MadeT")


class Addition:
    """One addition; ``node``, ``drive`` or ``medium`` is called once."""

    def __init__(self, graph: BlockGraph) -> None:
        self._graph = graph
        self._names: set[str] = set()
        self._opened: list[BlockNode] = []  # bottom first

    def node(self, options: object) -> Steps[BlockNode]:
        """A ``-blockdev``. Raises UsageError, BackendError."""
        made = yield from self._all_or_nothing(self._node(options, None))
        made.is_monitors = True
        return made

    def drive(self, options: object) -> Steps[Drive]:
        """A ``-drive``. Raises UsageError, BackendError."""
        made = yield from self._all_or_nothing(self._drive(options))
        self._graph.drives[made.name] = made
        self._graph.disks.append(made)
        return made

    def medium(self, drive: Drive, path: str, form: str | None, *, read_only: bool) -> Steps[BlockNode]:
        """What is going to be put into ``drive`` (blockdev-change-medium). Raises UsageError, BackendError."""
        made = yield from self._all_or_nothing(self._medium(drive, path, form, read_only=read_only))
        made.user = "a drive"
        return made

    def _medium(self, drive: Drive, path: str, form: str | None, *, read_only: bool) -> Steps[BlockNode]:
        mode = drive.next_medium
        cache = opts.CacheMode(drive.cache_writeback, mode.cache_direct, mode.cache_no_flush)
        options = SimpleNamespace(
            file=path, format=form, read_only=read_only, discard="unmap" if mode.discard else "ignore"
        )
        made = yield from self._drive_node(options, cache, "blockdev-change-medium")
        if made is None:
            # QEMU-COMPAT: QEMU's sentence
            raise BackendError(f"Could not open '{path}': No such file or directory")
        return made

    def _all_or_nothing(self, steps: Steps[MadeT]) -> Steps[MadeT]:
        """Whatever was opened enters the graph together, or is closed again."""
        try:
            made = yield from steps
            self._enter()
        except BaseException:
            yield from self._take_back()
            raise
        finally:
            self._graph.reserved -= self._names
        return made

    def _enter(self) -> None:
        for node in self._opened:
            self._graph.nodes[node.node_name] = node

    def _take_back(self) -> Steps[None]:
        for node in reversed(self._opened):
            if node.file is not None:
                node.file.release()
            yield from _closed(node)

    # -- nodes ---------------------------------------------------------------------------------------------------

    def _node(self, options: object, parent: NodeConfig | None) -> Steps[BlockNode]:
        """``parent`` is that of the node inside whose options it is defined."""
        driver = str(getattr(options, "driver", "") or getattr(options, "kind", ""))
        where = f"-blockdev {driver}"
        opts.check_format(driver, where)
        opts.check_common(options)
        name = getattr(options, "node_name", None)
        if name is None and parent is None:
            raise UsageError("'node-name' must be specified for the root node")
        config = self._config(name)
        opts.fill(config, options, parent)
        if driver in opts.NULL_DRIVERS:
            node: BlockNode = self._null(config, driver, options)
        elif driver == "raw":
            return (yield from self._raw(config, options))
        elif driver == opts.FAULT_DRIVER:
            image = yield from self._child(getattr(options, "image", None), config)
            return (yield from self._faulty(config, str(getattr(options, "config", "")), image))
        else:
            node = self._file(config, str(getattr(options, "filename", "")), driver, options)
        return (yield from self._open(node))

    def _config(self, name: str | None) -> NodeConfig:
        graph = self._graph
        if name is None:
            name = graph.new_name()
        elif not (name[:1].isalpha() and name.isascii() and all(c.isalnum() or c in "-._" for c in name)):
            form = f"at most {NODE_NAME_MAX} letters, digits, '-', '.', '_', starting with a letter"
            raise UsageError(f"Invalid node-name: '{name}'", form)
        elif len(name) > NODE_NAME_MAX:
            raise UsageError("Node name too long", f"{NODE_NAME_MAX} characters at most")
        if name in graph.drives:
            raise UsageError(f"node-name={name} is conflicting with a device id")
        if name in graph.nodes or name in graph.reserved:
            raise UsageError(f"Duplicate nodes with node-name='{name}'")
        self._reserve(name)
        return NodeConfig(name)

    def _reserve(self, name: str) -> None:
        self._names.add(name)
        self._graph.reserved.add(name)

    def _open(self, node: BlockNode) -> Steps[BlockNode]:
        if node.may_block:
            yield node.open
        else:
            node.open()
        self._opened.append(node)
        return node

    def _null(self, config: NodeConfig, driver: str, options: object) -> BlockNode:
        from vmmd.block.null import NullNode

        given = getattr(options, "given", ())
        size = getattr(options, "size", None)
        node = NullNode(config, self._graph.loop, driver, size if not given or "size" in given else None)
        node.latency_ns = int(getattr(options, "latency_ns", None) or 0)
        node.read_zeroes = bool(getattr(options, "read_zeroes", None))
        return node

    def _file(self, config: NodeConfig, path: str, driver: str, options: object, aio: str | None = None) -> FileNode:
        from vmmd.block.file import FileNode

        if aio is None and opts.is_given(options, "aio"):
            aio = getattr(options, "aio", None)
        graph = self._graph
        node = FileNode(config, path, graph.threads(), driver)
        node.auto_read_only = bool(getattr(options, "auto_read_only", None))
        node.locking = getattr(options, "locking", None) or "auto"
        node.fdsets = graph.fdsets
        node.engine = graph.engine(aio)
        return node

    def _raw(self, config: NodeConfig, options: object) -> Steps[BlockNode]:
        from vmmd.block.raw import RawNode

        below = yield from self._child(getattr(options, "file", None), config)
        size = getattr(options, "size", None)
        if below.read_only and getattr(options, "auto_read_only", None):
            config.read_only = True
        node = RawNode(config, below, int(getattr(options, "offset", None) or 0), size)
        return (yield from self._open_above(node, below))

    def _child(self, reference: object, config: NodeConfig) -> Steps[BlockNode]:
        """The node below, by its name or made from its own options."""
        if isinstance(reference, str):
            return self._graph.find(reference)
        return (yield from self._node(reference, config))

    def _faulty(self, config: NodeConfig, rules_path: str, image: BlockNode) -> Steps[BlockNode]:
        from vmmd.block.blkdebug import BlkdebugNode

        config.read_only = config.read_only or image.read_only
        node = BlkdebugNode(config, self._graph.loop, rules_path, image)
        return (yield from self._open_above(node, image))

    def _open_above(self, node: BlockNode, below: BlockNode) -> Steps[BlockNode]:
        below.take(node)
        try:
            return (yield from self._open(node))
        except BaseException:
            below.release()
            raise

    # -- drives --------------------------------------------------------------------------------------------------

    def _drive(self, options: object) -> Steps[Drive]:
        name = self._drive_name(options)
        cache = opts.cache_mode(options)
        node = yield from self._drive_node(options, cache, f"-drive id={name}")
        drive = Drive(name, node)
        drive.cache_writeback = cache.writeback
        drive.rerror = getattr(options, "rerror", None) or "auto"
        drive.werror = getattr(options, "werror", None) or "auto"
        drive.serial = getattr(options, "serial", None)
        drive.next_medium = MediumMode(
            bool(getattr(options, "read_only", None)), cache.direct, cache.no_flush, opts.wants_discard(options)
        )
        if node is not None:
            node.name = name
            node.user = f"drive '{name}'"
            yield drive.lock_idle
        return drive

    def _drive_name(self, options: object) -> str:
        name = str(getattr(options, "id", None) or "")
        opts.check_drive(options, f"-drive id={name}" if name else "-drive")
        graph = self._graph
        if not name:
            name = graph.new_drive_id()
        if name in graph.drives:
            raise UsageError(f"Duplicate ID '{name}' for drive")
        if name in graph.nodes or name in graph.reserved:
            raise UsageError(f"Device name '{name}' conflicts with an existing node name")
        self._reserve(name)
        return name

    def _drive_node(self, options: object, cache: opts.CacheMode, where: str) -> Steps[BlockNode | None]:
        file_keys = dict(getattr(options, "file_options", ()))
        text = getattr(options, "file", None) or file_keys.get("filename")
        form = getattr(options, "format", None)
        if form is not None:
            opts.check_format(form, where)
        if form in opts.NULL_DRIVERS:
            return (yield from self._open(self._null(self._drive_config(options, cache), form, options)))
        if not text:
            return None
        below = yield from self._drive_protocol(options, cache, str(text), where)
        return (yield from self._stack(options, cache, below, form))

    def _drive_protocol(self, options: object, cache: opts.CacheMode, text: str, where: str) -> Steps[BlockNode]:
        """The node that ``file=`` means."""
        name, form = opts.split_file_name(text, where), getattr(options, "format", None)
        protocol = name.protocol or str(dict(getattr(options, "file_options", ())).get("driver") or "")
        if protocol == opts.FAULT_DRIVER:
            rules, _, image = name.path.partition(":")
            config = self._drive_config(options, cache, top=False)
            return (
                yield from self._faulty(config, rules, (yield from self._drive_protocol(options, cache, image, where)))
            )
        if protocol in opts.NULL_DRIVERS:
            config = self._drive_config(options, cache, top=form in opts.NULL_DRIVERS)
            below = self._null(config, protocol, getattr(options, "protocol", None))
        else:
            if not (protocol or form in opts.FILE_DRIVERS):
                protocol = yield partial(_driver_for, name.path)
            below = self._drive_file(options, cache, name.path, protocol or str(form))
        return (yield from self._open(below))

    def _drive_file(self, options: object, cache: opts.CacheMode, path: str, driver: str) -> FileNode:
        file_keys = dict(getattr(options, "file_options", ()))
        config = self._drive_config(options, cache, top=getattr(options, "format", None) in opts.FILE_DRIVERS)
        if file_keys.get("node-name"):
            config = self._named(config, str(file_keys["node-name"]))
        node = self._file(config, path, driver, options, file_keys.get("aio"))
        node.locking = str(file_keys.get("locking") or "auto")
        return node

    def _named(self, config: NodeConfig, name: str) -> NodeConfig:
        named = self._config(name)
        for slot in NodeConfig.__slots__:
            if slot != "node_name":
                setattr(named, slot, getattr(config, slot))
        return named

    def _drive_config(self, options: object, cache: opts.CacheMode, *, top: bool = True) -> NodeConfig:
        config = self._config(getattr(options, "node_name", None) if top else None)
        config.read_only = bool(getattr(options, "read_only", None))
        config.cache_direct, config.cache_no_flush = cache.direct, cache.no_flush
        config.writes_through = not cache.writeback
        config.discard = opts.wants_discard(options)
        config.force_share = bool(getattr(options, "force_share", None))
        return config

    def _stack(self, options: object, cache: opts.CacheMode, below: BlockNode, form: str | None) -> Steps[BlockNode]:
        """The format node on top of the protocol node."""
        from vmmd.block.raw import RawNode

        if form in opts.FILE_DRIVERS:
            return below
        if form is None and below.driver in opts.FILE_DRIVERS:
            yield from self._probe(below)
        config = self._drive_config(options, cache)
        config.read_only = below.read_only
        node = RawNode(config, below)
        node.probed = form is None and below.driver in opts.FILE_DRIVERS
        yield from self._open(node)
        below.take(node)
        return node

    def _probe(self, below: BlockNode) -> Steps[None]:
        """No format= was given. Raises UsageError for an image of another format; warns about raw ones."""
        from vmmd.block.file import FileNode
        from vmmd.block.raw import probe_format

        assert isinstance(below, FileNode)  # the caller looked at the driver
        try:
            head = yield partial(below.head, 512)
        except OSError as error:
            raise BackendError.from_os(
                f"Could not read image for determining its format '{below.path}'", error
            ) from error
        found = probe_format(head)
        if found != "raw":
            raise UsageError(
                f"Image '{below.path}' looks like {found}, which is not available in this version",
                "give format=raw if its bytes are the disk",
            )
        # QEMU-COMPAT: the first sentence is QEMU's
        messages.notice(
            f"WARNING: Image format was not specified for '{below.path}' and probing guessed raw; a guest could write "
            "another format's header, so such writes to the first sector are refused; give format=raw to lift this"
        )


def _closed(node: BlockNode) -> Steps[None]:
    if node.may_block:
        yield node.close
    else:
        node.close()


def remove(graph: BlockGraph, node: BlockNode) -> Steps[None]:
    """Take a node that nobody uses out of the graph and close it, with the nodes below that were made with it. Its name
    is free when its image is."""
    chain = [node]
    while (below := chain[-1].file) is not None:
        below.release()
        if below.is_monitors:
            break
        chain.append(below)
    names = {each.node_name for each in chain}
    graph.reserved |= names
    for each in chain:
        graph.nodes.pop(each.node_name, None)
    try:
        for each in chain:
            yield from _closed(each)
    finally:
        graph.reserved -= names


def _driver_for(path: str) -> str:
    """``host_device`` for a block device, as -drive chooses by itself. May block."""
    import os

    try:
        return "host_device" if stat.S_ISBLK(os.stat(path).st_mode) else "file"
    except OSError:
        return "file"  # open() gives the error
