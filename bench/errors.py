"""What `bench` raises. Each is one line for the user: the value, the cause, the remedy.

BenchError          anything that stops a run                   exit code 1
└── UserError       the user's mistake, found before starting   exit code 2
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

#: Takes a line on what goes on, for the user.
Say = Callable[[str], None]

#: Exit codes beside 0, 1 (anything else), 2 (the user's mistake), and 130 and 143 (stopped by a signal).
BROKEN, REGRESSION, NOTHING_QUALIFIES, UNDECIDED = 3, 4, 5, 6
#: Of several that are true, the first counts.
PRECEDENCE = (2, 130, 143, BROKEN, REGRESSION, NOTHING_QUALIFIES, 1, UNDECIDED, 0)


def foremost(codes: Iterable[int]) -> int:
    """The exit code of a command of which all of `codes` are true; 0 without any."""
    return min(codes, key=PRECEDENCE.index, default=0)


class BenchError(Exception):
    """Something stopped the run; what was measured so far is on disk."""

    exit_code = 1


class UserError(BenchError):
    """The user's mistake; nothing was started."""

    exit_code = 2
