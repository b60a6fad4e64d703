# SPDX-License-Identifier: Apache-2.0
"""The process around the machine: -daemonize, -pidfile, inherited descriptors, character devices, messages, names."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.framework.guests import random_disk
from tests.framework.qmp import Qmp
from tests.framework.vm import REPOSITORY, Vm, emulator
from tests.integration.test_lifecycle_states import GUEST_TIMEOUT_S, machine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.kvm

#: contract/libvirt.md §2.1, word for word but for the paths
PROBE = "-S -no-user-config -nodefaults -nographic -machine none,accel=kvm:tcg"
CPU = ["-cpu", "qemu64,-cx16,-pni,-xsave"]
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


def start(
    name: str, *options: object, fds: Sequence[int] = (), timeout_s: float = 15
) -> subprocess.CompletedProcess[str]:
    """Run the emulator until this process has ended and its standard output and error are closed by everybody."""
    return subprocess.run(
        [*emulator(name).command, *map(str, options)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=timeout_s, check=False, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, pass_fds=fds,
    )  # fmt: skip


def wait_gone(pid: int, timeout_s: float = 10) -> None:
    """Until a process that is not our child has ended (a zombie has)."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} does not end")


@pytest.fixture
def daemons() -> Iterator[list[Path]]:
    """Pid files; what still runs is ended."""
    pidfiles: list[Path] = []
    yield pidfiles
    for pidfile in pidfiles:
        if pidfile.exists() and (text := pidfile.read_text().strip()):
            os.kill(int(text), signal.SIGTERM)
            wait_gone(int(text))


def test_daemonize_as_libvirt_probes(tmp_path: Path, emulator_name: str, daemons: list[Path]) -> None:
    monitor, pidfile = tmp_path / "qmp.monitor", tmp_path / "qmp.pid"
    daemons.append(pidfile)
    done = start(
        emulator_name, *PROBE.split(), "-qmp", f"unix:{monitor},server=on,wait=off", "-pidfile", pidfile, "-daemonize"
    )  # returns at the end of file on both pipes
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pid = int(re.fullmatch(r"(\d+)\n", pidfile.read_text())[1])  # type: ignore[index]  # no match: TypeError is fine
    assert os.getpgid(pid) != os.getpgid(0)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
    qmp = Qmp.connect(str(monitor))
    assert qmp.cmd("query-status")["status"] == "prelaunch"
    assert qmp.cmd("query-kvm") == {"enabled": True, "present": True}
    qmp.start("quit")
    qmp.wait_closed(10)
    qmp.close()
    wait_gone(pid)
    assert not pidfile.exists()
    assert not monitor.exists()


@pytest.mark.parametrize("what", ["monitor", "pidfile", "disk"])
def test_daemonize_that_fails_tells_the_parent_and_leaves_nothing(
    tmp_path: Path, emulator_name: str, what: str, daemons: list[Path]
) -> None:
    daemons.append(tmp_path / "pid")
    paths = {"monitor": tmp_path / "monitor", "pidfile": tmp_path / "pid", "disk": random_disk().path}
    paths[what] = Path("/nonexistent/file")
    done = start(
        emulator_name, "-machine", "none" if what != "disk" else "pc", *CPU, "-display", "none", "-nodefaults",
        "-qmp", f"unix:{paths['monitor']},server=on,wait=off", "-pidfile", paths["pidfile"], "-daemonize",
        "-drive", f"if=none,id=d,format=raw,readonly=on,file={paths['disk']}",
    )  # fmt: skip
    assert done.returncode == 1
    assert "/nonexistent/" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 or emulator_name == "qemu"
    if emulator_name == "vmmd":  # QEMU leaves its pid file
        assert list(tmp_path.iterdir()) == []


def test_pidfile_has_one_owner(tmp_path: Path, emulator_name: str) -> None:
    pidfile = tmp_path / "pid"
    with Vm(emulator(emulator_name), ["-machine", "none", "-S", "-pidfile", str(pidfile)], serial=False) as vm:
        assert pidfile.read_text() == f"{vm.pid}\n"
        done = start(emulator_name, "-machine", "none", "-S", "-display", "none", "-pidfile", pidfile)
        assert done.returncode == 1
        assert str(pidfile) in done.stderr or emulator_name == "qemu"
        assert pidfile.read_text() == f"{vm.pid}\n"
    assert not pidfile.exists()


def test_stale_pidfile_is_taken_over(tmp_path: Path, emulator_name: str) -> None:
    pidfile = tmp_path / "pid"
    pidfile.write_text("999999999999\nrubbish")
    with Vm(emulator(emulator_name), ["-machine", "none", "-S", "-pidfile", str(pidfile)], serial=False) as vm:
        assert pidfile.read_text() == f"{vm.pid}\n"


def test_inherited_descriptors_stay_open_and_a_listening_one_is_the_monitor(tmp_path: Path, emulator_name: str) -> None:
    path, pidfile = tmp_path / "monitor", tmp_path / "pid"
    read_end, write_end = os.pipe()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        fds = (listener.fileno(), read_end)
        command = [
            *emulator(emulator_name).command, "-machine", "none", "-S", "-display", "none", "-pidfile", str(pidfile),
            "-chardev", f"socket,id=m,fd={listener.fileno()},server=on,wait=off", "-mon", "chardev=m,mode=control",
        ]  # fmt: skip
        process = subprocess.Popen(command, pass_fds=fds, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    os.close(read_end)
    try:
        qmp = Qmp.connect(str(path))  # waits in the backlog until the emulator is there
        assert os.readlink(f"/proc/{process.pid}/fd/{read_end}").startswith("pipe:")
        os.write(write_end, b"x")  # somebody still holds the other end
        assert qmp.cmd("query-status")["status"] == "prelaunch"
        qmp.start("quit")
        assert process.wait(10) == 0
        qmp.close()
    finally:
        os.close(write_end)
        if process.poll() is None:
            process.kill()
            process.wait()
    if emulator_name == "vmmd":
        assert path.exists()  # whoever made it removes it


def test_add_fd_and_fdset_paths(tmp_path: Path, emulator_name: str) -> None:
    log, image = tmp_path / "log", tmp_path / "disk"
    image.write_bytes(random_disk().path.read_bytes())
    with image.open("r+b") as disk, image.open("rb") as read_only, log.open("wb") as console:
        fds = (disk.fileno(), read_only.fileno(), console.fileno())
        command = [
            *emulator(emulator_name).command, "-machine", "pc,accel=kvm", *CPU, "-m", "16", "-nodefaults", "-display",
            "none", "-S", "-qmp", f"unix:{tmp_path}/monitor,server=on,wait=off",
            "-add-fd", f"fd={fds[1]},set=2,opaque=rdonly", "-add-fd", f"fd={fds[0]},set=2,opaque=rdwr",
            "-add-fd", f"fd={fds[2]},set=3",
            "-drive", "if=none,id=d0,format=raw,file=/dev/fdset/2", "-device", "virtio-blk-pci,drive=d0",
            "-chardev", "file,id=c0,path=/dev/fdset/3", "-device", "isa-serial,chardev=c0",
        ]  # fmt: skip
        process = subprocess.Popen(command, pass_fds=fds, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    try:
        deadline = time.monotonic() + 10
        while not (tmp_path / "monitor").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        qmp = Qmp.connect(f"{tmp_path}/monitor")
        (block,) = qmp.cmd("query-block")
        assert (block["inserted"]["file"], block["inserted"]["ro"]) == ("/dev/fdset/2", False)
        assert block["inserted"]["image"]["virtual-size"] == 1 << 20
        qmp.start("quit")
        assert process.wait(10) == 0
        qmp.close()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_tcp_unix_and_pty_character_devices(tmp_path: Path, emulator_name: str) -> None:
    """The guest's letters arrive through each of them, and its answers come back."""
    options = [
        "-chardev", "socket,id=tcp0,host=127.0.0.1,port=0,server=on,wait=off,nodelay=on",
        "-device", "isa-serial,chardev=tcp0",
    ]  # fmt: skip
    with quiet_machine(emulator_name, "-S", *options) as vm:
        text = filename(vm, "tcp0")
        port = int(re.search(r":(\d+),server=on$", text)[1])  # type: ignore[index]  # a wrong text fails here
        with socket.create_connection(("127.0.0.1", port), 5) as peer:
            vm.qmp.cmd("cont")
            talk_socket(peer)
    with quiet_machine(emulator_name, "-S", "-chardev", "pty,id=p0", "-device", "isa-serial,chardev=p0") as vm:
        path = re.fullmatch(r"pty:(/dev/pts/\d+)", filename(vm, "p0"))[1]  # type: ignore[index]
        terminal = os.open(path, os.O_RDWR | os.O_NOCTTY)
        try:
            subprocess.run(["stty", "raw", "-echo"], stdin=terminal, check=True)
            time.sleep(1.1)  # a closed terminal is polled once a second
            vm.qmp.cmd("cont")
            assert read_until(terminal, b"@") == b"@"
            os.write(terminal, b"x")
            assert read_until(terminal, b"x") == b"x"
        finally:
            os.close(terminal)


def test_reconnecting_client_comes_back(tmp_path: Path, emulator_name: str) -> None:
    path = tmp_path / "peer"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(10)
        chardev = f"socket,id=c0,path={path},server=off,reconnect=1"
        with quiet_machine(emulator_name, "-chardev", chardev, "-device", "isa-serial,chardev=c0") as vm:
            listener.accept()[0].close()  # the first connection is lost at once
            peer, _ = listener.accept()
            with peer:
                wait_connected(vm, "c0")
                vm.qmp.cmd("system_reset")
                talk_socket(peer)


def wait_connected(vm: Vm, label: str) -> None:
    """What the guest sends before its chardev has noticed that it is connected is lost, in QEMU as in vmmd."""
    deadline = time.monotonic() + GUEST_TIMEOUT_S
    while filename(vm, label).startswith("disconnected:"):
        assert time.monotonic() < deadline, f"{label} is still not connected"
        time.sleep(0.01)


def quiet_machine(emulator_name: str, *options: str) -> Vm:
    """A machine with the obeying firmware and no serial port but those of *options*."""
    vm = machine(emulator_name, *options)
    vm._want_serial = False
    return vm


def filename(vm: Vm, label: str) -> str:
    return str(next(each["filename"] for each in vm.qmp.cmd("query-chardev") if each["label"] == label))


def talk_socket(peer: socket.socket) -> None:
    peer.settimeout(GUEST_TIMEOUT_S)
    while (data := peer.recv(100)) and b"@" not in data:
        pass
    peer.sendall(b"x")
    assert peer.recv(100) == b"x"


def read_until(fd: int, what: bytes) -> bytes:
    data, deadline = b"", time.monotonic() + GUEST_TIMEOUT_S
    os.set_blocking(fd, False)
    while what not in data:
        assert time.monotonic() < deadline, data
        try:
            data += os.read(fd, 100)
        except BlockingIOError:
            time.sleep(0.01)
    return data


def test_messages_have_a_time_when_asked_for(emulator_name: str) -> None:
    done = start(emulator_name, "-msg", "timestamp=on", "-display", "none", "-device", "no-such-device")
    assert done.returncode == 1
    assert re.match(rf"{STAMP} \S+: .*no-such-device", done.stderr)
    done = start(emulator_name, "-display", "none", "-device", "no-such-device")
    assert re.match(r"[a-z0-9_-]+: .*no-such-device", done.stderr)


def test_warnings_have_a_time_too(emulator_name: str) -> None:
    options = ["-msg", "timestamp=on", "-machine", "pc,accel=kvm", "-cpu", "qemu64,+hle", "-m", "16", "-S"]
    with Vm(emulator(emulator_name), [*options, "-nodefaults"], serial=False) as vm:
        vm.qmp.cmd("query-status")
        assert re.search(rf"^{STAMP} \S+: warning: host doesn't support requested feature", vm.stderr(), re.MULTILINE)


def test_names_of_process_and_threads(emulator_name: str) -> None:
    options = ["-name", "guest=web,process=vm-web,debug-threads=on", "-smp", "2", "-S"]
    with machine(emulator_name, *options) as vm:
        assert vm.qmp.cmd("query-name") == {"name": "web"}
        assert Path(f"/proc/{vm.pid}/comm").read_text() == "vm-web\n"
        cpus = vm.qmp.cmd("query-cpus-fast")
        names = [Path(f"/proc/{vm.pid}/task/{cpu['thread-id']}/comm").read_text() for cpu in cpus]
        assert names == ["CPU 0/KVM\n", "CPU 1/KVM\n"]


def test_uuid_reaches_monitor_and_firmware(emulator_name: str) -> None:
    """SeaBIOS keeps the SMBIOS tables in the F segment, the monitor reads them there."""
    uuid = "01234567-89ab-cdef-0123-456789abcdef"
    options = ["-M", "pc,accel=kvm", *CPU, "-m", "16", "-nodefaults", "-uuid", uuid]
    with Vm(emulator(emulator_name), options, serial=False, debugcon=True) as vm:
        assert vm.qmp.cmd("query-uuid") == {"UUID": uuid}
        vm.debugcon.expect("Copying SMBIOS", 30)
        vm.debugcon.expect("All threads complete|Scan for option roms|Searching bootorder", 30)
        vm.qmp.cmd("stop")
        text = vm.qmp.hmp("xp /65536xb 0xf0000")
        memory = bytes(int(byte, 16) for byte in re.findall(r"0x([0-9a-f]{2})\b", text))
        assert len(memory) == 65536
        assert bytes.fromhex("67452301ab89efcd0123456789abcdef") in memory


def test_daemon_removes_what_was_named_by_relative_paths(tmp_path: Path) -> None:
    """The daemon works in /, the names were given elsewhere."""
    command = [*emulator("vmmd").command, *PROBE.split(), "-qmp", "unix:mon.sock,server=on,wait=off"]
    command += ["-pidfile", "vm.pid", "-daemonize"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=60)
    assert sorted(os.listdir(tmp_path)) == ["mon.sock", "vm.pid"]
    pidfd = os.pidfd_open(int((tmp_path / "vm.pid").read_text()))
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        assert select.select([pidfd], [], [], 20)[0]
    finally:
        os.close(pidfd)
    assert os.listdir(tmp_path) == []
