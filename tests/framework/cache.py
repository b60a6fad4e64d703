# SPDX-License-Identifier: Apache-2.0
"""Where guest artefacts come from and where they are kept.

Programs and files of Debian packages are taken from the installed system, else from the package itself
(`apt-get download` and `dpkg -x` into the cache; nothing is installed). Built artefacts live in directories of the
cache whose names carry a hash of their sources, so they are built once and never go stale:

    $VMMD_GUESTS (default /var/tmp/vmmd-guests)/
        packages/NAME/          an unpacked Debian package
        linux-HASH12/ bench-HASH12/ images-HASH12/ …    each with `.complete` once it is whole
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

REPOSITORY = Path(__file__).resolve().parents[2]
HASH_DIGITS = 12
PROGRAM_DIRECTORIES = ("usr/sbin", "sbin", "usr/bin", "bin")
BUILD_TIMEOUT_S = 1800.0


class GuestError(Exception):
    """A guest artefact cannot be had; the text says which and why."""


class MissingSources(GuestError):
    """The folder with guest sources is not there; a clone of the repository alone does not have it."""


class MissingPackage(GuestError):
    """A Debian package that is neither installed nor can be downloaded."""

    def __init__(self, package: str, wanted: str, why: str = "") -> None:
        super().__init__(f"{wanted} is missing: install the Debian package {package}{f' ({why})' if why else ''}")
        self.package = package


def cache_root() -> Path:
    """The cache directory, created on first use."""
    root = Path(os.environ.get("VMMD_GUESTS", "/var/tmp/vmmd-guests"))
    root.mkdir(parents=True, exist_ok=True)
    return root


def shared_folder() -> Path:
    """The folder with guest and benchmark sources: VMMD_SHARED, else `shared` beside the repository."""
    folder = Path(os.environ.get("VMMD_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "guests").is_dir():
        raise MissingSources(f"no guest sources in {folder}: set VMMD_SHARED")
    return folder


def hash_of_files(paths: Sequence[Path], root: Path) -> str:
    """Hash of names (relative to *root*) and contents, in name order."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        name, data = path.relative_to(root).as_posix().encode(), path.read_bytes()
        digest.update(b"%d %d " % (len(name), len(data)) + name + data)
    return digest.hexdigest()[:HASH_DIGITS]


def hash_of_folder(folder: Path) -> str:
    """`hash_of_files` over all files below *folder*."""
    return hash_of_files([path for path in folder.rglob("*") if path.is_file()], folder)


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the cache's lock *name*; other processes wait."""
    with (cache_root() / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def built(name: str, build: Callable[[Path], None]) -> Path:
    """The cache directory *name*, filled by *build* on first use; an interrupted build is continued, not trusted."""
    directory = cache_root() / name
    complete = directory / ".complete"
    if not complete.exists():
        with locked(name):
            if not complete.exists():
                directory.mkdir(exist_ok=True)
                build(directory)
                complete.touch()
    return directory


def run(command: Sequence[str | Path], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a build step and return its output; GuestError with the output when it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | (env or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=BUILD_TIMEOUT_S,
        check=False,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        raise GuestError(f"{command[0]} ended with status {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout


def package_file(package: str, path: str) -> Path:
    """The file *path* (relative to /) of a Debian package, installed or unpacked in the cache."""
    installed = Path("/") / path
    if installed.exists():
        return installed
    unpacked = _unpacked(package, path) / path
    if not unpacked.exists():
        raise MissingPackage(package, f"/{path}", "the downloaded package does not contain it")
    return unpacked


def program(package: str, name: str) -> Path:
    """The program *name*: installed, else from the Debian package *package*."""
    search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=search)
    if found is not None:
        return Path(found)
    for directory in PROGRAM_DIRECTORIES:
        candidate = _unpacked(package, name) / directory / name
        if candidate.exists():
            return candidate
    raise MissingPackage(package, name, "the downloaded package does not contain it")


def _unpacked(package: str, wanted: str) -> Path:
    target = cache_root() / "packages" / package
    with locked(f"package-{package}"):
        if target.exists():
            return target
        target.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            try:
                # `_apt` cannot write into a private directory; without the sandbox user apt only warns.
                run(["apt-get", "-o", "APT::Sandbox::User=root", "download", package], cwd=Path(scratch))
                (deb,) = Path(scratch).glob("*.deb")
                run(["dpkg", "-x", deb, Path(scratch) / "root"])
            except (GuestError, OSError, ValueError) as error:
                raise MissingPackage(package, wanted, f"and it cannot be downloaded: {error}") from error
            (Path(scratch) / "root").rename(target)
    return target
