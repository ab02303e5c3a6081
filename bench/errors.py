"""What `bench` raises. Each is one line for the user: the value, the cause, the remedy.

BenchError          anything that stops a run                   exit code 1
└── UserError       the user's mistake, found before starting   exit code 2
"""

from __future__ import annotations

from collections.abc import Callable

#: Takes a line on what goes on, for the user.
Say = Callable[[str], None]


class BenchError(Exception):
    """Something stopped the run; what was measured so far is on disk."""

    exit_code = 1


class UserError(BenchError):
    """The user's mistake; nothing was started."""

    exit_code = 2
