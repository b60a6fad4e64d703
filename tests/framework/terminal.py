# SPDX-License-Identifier: Apache-2.0
"""`Terminal`: a program in a real terminal (tmux): keys go in, the screen is read as a person would see it.

Each has a tmux server of its own, which ends with it. tmux tells nothing when a program has drawn, so waits look at
the screen again and again, with a deadline.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

WAIT_S = 20.0
LOOK_AGAIN_S = 0.02
TAIL_CHARACTERS = 4000
UTIME, STIME = 11, 12  # in /proc/PID/stat behind the command's name, see proc(5)
CONFIGURATION = """\
set -g remain-on-exit on
set -g status off
set -g default-terminal screen-256color
set -s escape-time 0
set -g history-limit 5000
"""


class Terminal:
    """A terminal of *columns* by *rows* that runs *command*."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        columns: int = 100,
        rows: int = 30,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        assert shutil.which("tmux") is not None, "tmux is missing; scripts/setup test installs it"
        self._directory = Path(tempfile.mkdtemp(prefix="vmmd-terminal-"))
        configuration = self._directory / "tmux.conf"
        configuration.write_text(CONFIGURATION)
        self._base = ["tmux", "-u", "-S", str(self._directory / "tmux"), "-f", str(configuration)]
        size = ["-x", str(columns), "-y", str(rows), "-c", str(cwd or Path.cwd())]
        variables = [f"{name}={value}" for name, value in {"LC_ALL": "C.UTF-8", **(env or {})}.items()]
        # tmux can miss the status of a program that ends, so that is written to a file
        self._status = self._directory / "status"
        keep = f'"$@"; echo "$?" > "{self._status}.new"; mv "{self._status}.new" "{self._status}"'
        self._tmux("new-session", "-d", *size, "--", "env", *variables, "sh", "-c", keep, "sh", *command)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        subprocess.run([*self._base, "kill-server"], check=False, capture_output=True)
        shutil.rmtree(self._directory)

    def _tmux(self, *arguments: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name not in ("TMUX", "TMUX_PANE")}
        done = subprocess.run(
            [*self._base, *arguments], check=True, capture_output=True, text=True, timeout=WAIT_S, env=environment
        )
        return done.stdout

    def type(self, text: str) -> None:
        """Type a text."""
        self._tmux("send-keys", "-l", "--", text)

    def press(self, *keys: str) -> None:
        """Press keys by tmux's names: Enter, Tab, C-c, Up."""
        self._tmux("send-keys", *keys)

    def line(self, text: str) -> None:
        """Type a line and press Enter."""
        self.type(text)
        self.press("Enter")

    def screen(self, *, history: bool = False) -> str:
        """What is shown now; with *history* also what has scrolled away."""
        text = self._tmux("capture-pane", "-p", *(["-S", "-"] if history else []))
        return "\n".join(line.rstrip() for line in text.split("\n")).rstrip("\n")

    def wait(self, until: Callable[[str], bool], what: str, timeout_s: float = WAIT_S) -> str:
        """The screen, as soon as it is as wanted."""
        deadline = time.monotonic() + timeout_s
        while True:
            screen = self.screen()
            if until(screen):
                return screen
            if time.monotonic() > deadline:
                seen = self.screen(history=True)[-TAIL_CHARACTERS:]
                raise AssertionError(f"the terminal did not show {what} within {timeout_s:g} s; it shows:\n{seen}")
            time.sleep(LOOK_AGAIN_S)

    def wait_for(self, *texts: str, timeout_s: float = WAIT_S) -> str:
        """The screen, as soon as it has all *texts*."""
        return self.wait(
            lambda screen: all(text in screen for text in texts), " and ".join(map(repr, texts)), timeout_s
        )

    def wait_for_last(self, text: str) -> str:
        """The screen, as soon as *text* is the last line above the tool bar."""
        return self.wait(lambda screen: last_line(screen) == text, f"{text!r} as the last line")

    def cpu_seconds(self) -> float:
        """Processor time that the program has used."""
        parent = self._tmux("display", "-p", "#{pane_pid}").strip()
        pid = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0]
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[UTIME]) + int(fields[STIME])) / os.sysconf("SC_CLK_TCK")

    def status(self) -> int:
        """The exit status, as soon as the program has ended."""
        self.wait(lambda _screen: self._status.exists(), "the end of the program")
        return int(self._status.read_text())


def last_line(screen: str) -> str:
    """The last line of the screen above the tool bar."""
    lines = [line for line in screen.split("\n") if line]
    return lines[-2] if len(lines) > 1 else ""
