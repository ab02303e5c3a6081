"""Why a bundle is not made, beside the user's mistakes; each with the exit code that says so."""

from __future__ import annotations

from bench.choose.choice import NOTHING_QUALIFIES_EXIT_CODE
from bench.errors import BenchError


class NotTheSameModelError(BenchError):
    """The runtime's parity is below what was asked for, so it is not bundled."""

    exit_code = 3


class NothingQualifiesError(BenchError):
    """`choose` found no runtime that keeps the constraints."""

    exit_code = NOTHING_QUALIFIES_EXIT_CODE
