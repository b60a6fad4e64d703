# SPDX-License-Identifier: Apache-2.0
"""The block graph: nodes by name, drives by id, and the engines they share.

    graph = BlockGraph(loop, fdsets)
    graph.add(blockdev_options)          # a -blockdev node
    graph.add_drive(drive_options)       # a -drive
    drive = graph.claim("disk0", "virtio-blk-device")
    graph.close()                        # flushes

Loop thread, or start-up before the loop runs. ``add`` and ``add_drive`` open files; when they fail nothing is left.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from vmmd.block import lock
from vmmd.block import options as opts
from vmmd.block.base import BlockNode, NodeConfig
from vmmd.block.drives import Drive
from vmmd.errors import BackendError, UsageError

if TYPE_CHECKING:
    from vmmd.block.auto import AutoEngine
    from vmmd.block.file import Engine, FileNode
    from vmmd.block.pool import ThreadPool
    from vmmd.block.uring import UringEngine
    from vmmd.core.backend import IoDone
    from vmmd.core.fdsets import FdSets
    from vmmd.core.notify import LoopPort


class BlockGraph:
    def __init__(self, loop: LoopPort, fdsets: FdSets | None = None) -> None:
        self.nodes: dict[str, BlockNode] = {}
        self.drives: dict[str, Drive] = {}
        self._claimed: list[Drive] = []  # of nodes, in the order of claims
        self._loop = loop
        self._fdsets = fdsets
        self._pool: ThreadPool | None = None
        self._uring: UringEngine | None = None
        self._auto: AutoEngine | None = None
        self._numbered = 0

    # -- nodes ---------------------------------------------------------------------------------------------------

    def add(self, options: object, *, parent: NodeConfig | None = None) -> BlockNode:
        """Open the node of a ``-blockdev``; ``parent`` is that of the node inside whose options it is defined. Raises
        UsageError, BackendError."""
        driver = str(getattr(options, "driver", "") or getattr(options, "kind", ""))
        where = f"-blockdev {driver}"
        opts.check_format(driver, where)
        opts.check_common(options, where)
        name = getattr(options, "node_name", None)
        if not name and parent is None:
            raise UsageError("'node-name' must be specified for the root node", where)
        config = self._config(name)
        opts.fill(config, options, parent)
        if driver in opts.NULL_DRIVERS:
            node: BlockNode = self._null(config, driver, options)
        elif driver == "raw":
            return self._add_raw(config, options)
        else:
            node = self._file(config, str(getattr(options, "filename", "")), driver, options)
        return self._opened(node)

    def _config(self, name: str | None) -> NodeConfig:
        if not name:
            self._numbered += 1
            name = f"#block{self._numbered:03d}"
        elif not (
            name[0].isalpha() and name.isascii() and len(name) < 32 and all(c.isalnum() or c in "-._" for c in name)
        ):
            raise UsageError(
                f"Invalid node-name: '{name}'", "letters, digits, '-', '.', '_', starting with a letter, 31 at most"
            )
        if name in self.nodes:
            raise UsageError(f"Duplicate nodes with node-name='{name}'")
        if name in self.drives:
            raise UsageError(f"node-name={name} is conflicting with a device id")
        return NodeConfig(name)

    def _opened(self, node: BlockNode) -> BlockNode:
        node.open()
        self.nodes[node.node_name] = node
        return node

    def _null(self, config: NodeConfig, driver: str, options: object) -> BlockNode:
        from vmmd.block.null import NullNode

        given = getattr(options, "given", ())
        size = getattr(options, "size", None)
        node = NullNode(config, self._loop, driver, size if not given or "size" in given else None)
        node.latency_ns = int(getattr(options, "latency_ns", None) or 0)
        node.read_zeroes = bool(getattr(options, "read_zeroes", None))
        return node

    def _file(self, config: NodeConfig, path: str, driver: str, options: object, aio: str | None = None) -> FileNode:
        from vmmd.block.file import FileNode

        if aio is None and opts.is_given(options, "aio"):
            aio = getattr(options, "aio", None)
        node = FileNode(config, path, self._threads(), driver)
        node.auto_read_only = bool(getattr(options, "auto_read_only", None))
        node.locking = getattr(options, "locking", None) or "auto"
        node.fdsets = self._fdsets
        node.engine = self._engine(aio)
        return node

    def _add_raw(self, config: NodeConfig, options: object) -> BlockNode:
        from vmmd.block.raw import RawNode

        reference = getattr(options, "file", None)
        inline = not isinstance(reference, str)
        if not isinstance(reference, str):
            below = self.add(reference, parent=config)
        else:
            found = self.nodes.get(reference)
            if found is None:
                raise UsageError(f"Cannot find device='{reference}' nor node-name='{reference}'")
            below = found
        try:
            if below.user is not None:
                raise UsageError(f"Node '{below.node_name}' is busy: {below.user} uses it")
            size = getattr(options, "size", None)
            if below.read_only and getattr(options, "auto_read_only", None):
                config.read_only = True
            node = self._opened(RawNode(config, below, int(getattr(options, "offset", None) or 0), size))
        except BaseException:
            if inline:
                self._forget(below)
            raise
        below.user = f"node '{node.node_name}'"
        return node

    def _forget(self, node: BlockNode) -> None:
        node.close()
        self.nodes.pop(node.node_name, None)

    # -- drives --------------------------------------------------------------------------------------------------

    def add_drive(self, options: object) -> Drive:
        """Open a ``-drive``. Raises UsageError, BackendError."""
        name = str(getattr(options, "id", None) or "")
        where = f"-drive id={name}" if name else "-drive"
        opts.check_drive(options, where)
        if not name:
            name = f"drive{len(self.drives)}"
        if name in self.drives:
            raise UsageError(f"Duplicate ID '{name}' for drive")
        if name in self.nodes:
            raise UsageError(f"Device id '{name}' is already a node-name")
        cache = opts.cache_mode(options)
        drive = Drive(name, self._drive_node(options, cache, where))
        drive.cache_writeback = cache.writeback
        drive.rerror = getattr(options, "rerror", None) or "auto"
        drive.werror = getattr(options, "werror", None) or "auto"
        drive.serial = getattr(options, "serial", None)
        if drive.node is not None:
            drive.node.name = name
            drive.node.user = f"drive '{name}'"
            try:
                drive.lock_idle()
            except BackendError:
                self._close_nodes(drive.node)
                raise
        self.drives[name] = drive
        return drive

    def _drive_node(self, options: object, cache: opts.CacheMode, where: str) -> BlockNode | None:
        file_keys = dict(getattr(options, "file_options", ()))
        text = getattr(options, "file", None) or file_keys.get("filename")
        form = getattr(options, "format", None)
        if form is not None:
            opts.check_format(form, where)
        if form in opts.NULL_DRIVERS:
            return self._opened(self._null(self._drive_config(options, cache), form, options))
        if not text:
            return None
        name = opts.split_file_name(str(text), where)
        protocol = name.protocol or str(file_keys.get("driver") or "")
        if protocol in opts.NULL_DRIVERS:
            below = self._null(self._drive_config(options, cache, top=form in opts.NULL_DRIVERS), protocol, None)
        else:
            below = self._drive_file(options, cache, name.path, protocol, form)
        return self._stack(options, cache, self._opened(below), form)

    def _drive_file(
        self, options: object, cache: opts.CacheMode, path: str, protocol: str, form: str | None
    ) -> FileNode:
        file_keys = dict(getattr(options, "file_options", ()))
        driver = protocol or (form if form in opts.FILE_DRIVERS else None) or _driver_for(path)
        config = self._drive_config(options, cache, top=form in opts.FILE_DRIVERS)
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

    def _stack(self, options: object, cache: opts.CacheMode, below: BlockNode, form: str | None) -> BlockNode:
        """The format node on top of the protocol node."""
        from vmmd.block.raw import RawNode

        if form in opts.FILE_DRIVERS:
            return below
        try:
            if form is None and below.driver in opts.FILE_DRIVERS:
                self._probe(below)
            config = self._drive_config(options, cache)
            config.read_only = below.read_only
            node = RawNode(config, below)
            node.probed = form is None and below.driver in opts.FILE_DRIVERS
            self._opened(node)
        except BaseException:
            self._forget(below)
            raise
        below.user = f"node '{node.node_name}'"
        return node

    def _probe(self, below: BlockNode) -> None:
        """No format= was given. Raises UsageError for an image of another format; warns about raw ones."""
        import sys

        from vmmd.block.file import FileNode
        from vmmd.block.raw import probe_format

        assert isinstance(below, FileNode)  # the caller looked at the driver
        try:
            found = probe_format(below.head(512))
        except OSError as error:
            raise BackendError.from_os(
                f"Could not read image for determining its format '{below.path}'", error
            ) from error
        if found != "raw":
            raise UsageError(
                f"Image '{below.path}' looks like {found}, which is not available in this version",
                "give format=raw if its bytes are the disk",
            )
        # QEMU-COMPAT: the first sentence is QEMU's
        print(
            f"WARNING: Image format was not specified for '{below.path}' and probing guessed raw.\n"
            "         A guest could write another format's header, so such writes to the first sector are refused.\n"
            "         Give format=raw to lift this.",
            file=sys.stderr,
        )

    # -- claims --------------------------------------------------------------------------------------------------

    def claim(self, id_: str, user: str, *, share_rw: bool = False) -> Drive:
        """The drive or node for one device. Raises UsageError (unknown, in use, empty), BackendError (locked)."""
        drive = self.drives.get(id_)
        if drive is None:
            node = self.nodes.get(id_)
            if node is None:
                raise UsageError(f"Property '{user}.drive' can't find value '{id_}'", "no drive or node has this name")
            if node.user is not None:
                raise UsageError(f"Drive '{id_}' is already in use by another device", f"{node.user} uses it")
            drive = Drive("", node)
        elif drive.user is not None:
            raise UsageError(f"Drive '{id_}' is already in use by another device", f"{drive.user} uses it")
        if drive.node is None:
            raise UsageError("Device needs media, but drive is empty", f"drive '{id_}' has no file=")
        drive.share_rw = share_rw
        drive.lock_for_device()
        drive.user = user
        if not drive.name:
            drive.node.user = user
            self._claimed.append(drive)
        return drive

    def release(self, drive: object) -> None:
        """Give a claimed drive back. Idempotent; not for backends of other kinds."""
        if not isinstance(drive, Drive) or drive.user is None:
            return
        drive.user = drive.qdev = None
        drive.share_rw = False
        drive.backend.forget_all_resize()
        drive.lock_idle()
        if drive in self._claimed:
            self._claimed.remove(drive)
            drive.backend.user = None

    def query(self) -> list[Drive]:
        """Every -drive, then the claimed nodes."""
        return [*self.drives.values(), *self._claimed]

    # -- engines and the end -------------------------------------------------------------------------------------

    def _threads(self) -> ThreadPool:
        if self._pool is None:
            from vmmd.block.pool import ThreadPool

            self._pool = ThreadPool(self._loop)
        return self._pool

    def _engine(self, aio: str | None) -> Engine:
        if aio == "threads":
            return self._threads()
        if aio is None:
            if self._auto is None:
                from vmmd.block.auto import AutoEngine

                self._auto = AutoEngine(self._threads(), self._io_uring)
            return self._auto
        return self._io_uring()

    def _io_uring(self) -> UringEngine:
        if self._uring is None:
            from vmmd.block.uring import UringEngine

            self._uring = UringEngine(self._loop)
        return self._uring

    def drain(self) -> None:
        """Wait until no request is in flight. Blocks."""
        while any(each is not None and each.in_flight for each in (self._uring, self._pool)):
            for engine in (self._uring, self._pool):
                if engine is not None:
                    engine.drain()

    def flush_all(self, done: IoDone) -> None:
        """Make every writable image durable (the VM stops); ``done`` gets the first error. Loop thread."""
        waiting = [drive.node for drive in self.query() if drive.node is not None and not drive.read_only]
        left, first = len(waiting), 0

        def flushed(error: int) -> None:
            nonlocal left, first
            left -= 1
            first = first or error
            if not left:
                done(first)

        if not waiting:
            done(0)
        for node in waiting:
            node.flush(flushed)

    def _close_nodes(self, node: BlockNode) -> None:
        self._forget(node)
        if node.file is not None:
            self._close_nodes(node.file)

    def close(self) -> None:
        """Finish what is in flight, flush, close every image. Blocks. Idempotent."""
        self.drain()
        for drive in self.query():
            drive.user = None
        for node in reversed(list(self.nodes.values())):
            node.close()
        self.nodes.clear()
        self.drives.clear()
        self._claimed.clear()
        for engine in (self._uring, self._pool):
            if engine is not None:
                engine.close()
        self._uring = self._pool = self._auto = None


def _driver_for(path: str) -> str:
    """``host_device`` for a block device, as -drive chooses by itself."""
    import os

    try:
        return "host_device" if stat.S_ISBLK(os.stat(path).st_mode) else "file"
    except OSError:
        return "file"  # open() gives the error


__all__ = ["BlockGraph", "lock"]
