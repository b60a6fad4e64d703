# SPDX-License-Identifier: Apache-2.0
"""Where the lines typed at the prompt are kept: a file that only the user can read, without secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

_SECRET = re.compile("passw|secret|token", re.IGNORECASE)


class _PrivateHistory(FileHistory):
    """Keeps lines that look like they hold a secret in memory only."""

    def store_string(self, string: str) -> None:
        if not _SECRET.search(string):
            super().store_string(string)


def history_file() -> Path:
    """Where lines are kept: below XDG_STATE_HOME or ~/.local/state; readable by the user only."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "vmmd" / "shell-history"


def open_history(path: Path) -> History:
    """The history in this file, made with mode 0600; in memory when it cannot be written."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
    except OSError:
        return InMemoryHistory()
    return _PrivateHistory(path)
