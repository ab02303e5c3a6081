"""Which runtime of a run is bundled: the one that was named, or the one that `choose` takes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.choose.constraints import PARITIES, check_known
from bench.errors import BROKEN, NOTHING_QUALIFIES, UNDECIDED, BenchError, UserError
from bench.parity.verdict import OUTCOMES, is_within
from bench.run.record import Record, Run
from bench.spec import Candidate, nearest

CUT = "the run's file has no seal: it was killed or goes on, and further records may be missing"


class NotTheSameModelError(BenchError):
    """The runtime's parity is below what was asked for, so it is not bundled."""

    exit_code = BROKEN


class NothingQualifiesError(BenchError):
    """`choose` found no runtime that keeps the constraints."""

    exit_code = NOTHING_QUALIFIES


class UndecidedError(BenchError):
    """`choose` does not know which runtime to take."""

    exit_code = UNDECIDED


@dataclass(frozen=True)
class Selection:
    """The runtime to bundle, its measured cells, and why it was taken."""

    candidate: Candidate
    records: tuple[Record, ...]
    """Those with status ok and a median that the machine can do."""
    reasons: tuple[str, ...]

    @property
    def label(self) -> str:
        """`onnx fp32`."""
        return f"{self.candidate.label} {self.candidate.precision}"

    @property
    def worst(self) -> Record:
        """The cell with the worst parity verdict."""
        return max(self.records, key=lambda record: OUTCOMES.index(record.verdict or "unjudged"))


def select(run: Run, name: str | None, min_parity: str, constraints: Mapping[str, Any]) -> Selection:
    """The runtime `name` of `run`, or the winner under the `constraints` of `choose`; refused below `min_parity`.

    Raises UserError for a name or constraint that cannot be, NothingQualifiesError, UndecidedError and
    NotTheSameModelError.
    """
    check_known(min_parity, PARITIES, "--min-parity")
    if name is not None and constraints:
        given = ", ".join(f"--{option.replace('_', '-')}" for option in constraints)
        raise UserError(f"--choose {name} names the runtime, so {given} would decide nothing; leave one of them out")
    if name is None:
        candidate, reasons = _winner(run, min_parity, constraints)
    else:
        candidate, reasons = _named(run, name), (f"named by --choose {name}",)
    found = _measured(run, candidate, reasons)
    worst = found.worst
    reason = f"{worst.point}: {worst.parity.get('reason', 'it was not judged')}"
    check_parity_of(found.label, worst.verdict or "unjudged", min_parity, reason)
    return found


def _winner(run: Run, min_parity: str, constraints: Mapping[str, Any]) -> tuple[Candidate, tuple[str, ...]]:
    """The candidate that `choose` takes, and its reasons; raises NothingQualifiesError and UndecidedError."""
    from bench.choose.api import choose
    from bench.choose.lines import headline, lines, settling, settling_command

    choice = choose(run, min_parity=min_parity, **constraints)
    if choice.chosen is None and choice.leader is not None:
        remedy = "; ".join(filter(None, (*settling(choice), settling_command(choice))))
        raise UndecidedError(f"{headline(choice)}; {remedy}; --choose NAME or --max-regret 10% overrules it")
    if choice.chosen is None:
        raise NothingQualifiesError(f"{headline(choice)}; `bench choose` says why, and --choose NAME overrules it")
    return choice.chosen.candidate, (headline(choice), *lines(choice))


def _named(run: Run, name: str) -> Candidate:
    """The candidate of `run` that the user calls `backend[:variant][/precision]`; raises UserError."""
    known = {f"{one.label}/{one.precision}": one for one in run.candidates}
    alike = [one for whole, one in known.items() if name in (whole, one.label)]
    if not alike:
        near = nearest(name, known) or nearest(name.partition("/")[0], [one.label for one in run.candidates])
        raise UserError(f"--choose {name[:60]!r} is none of this run{near}; it has {', '.join(known)}")
    if len(alike) > 1:
        choices = " or ".join(f"{one.label}/{one.precision}" for one in alike)
        raise UserError(f"--choose {name} was measured at {len(alike)} precisions; write {choices}")
    return alike[0]


def _measured(run: Run, candidate: Candidate, reasons: Sequence[str]) -> Selection:
    """The cells of `candidate` that a bundle can promise times for; raises UserError without any."""
    label = f"{candidate.label} {candidate.precision}"
    records = [one for one in run.records if one.candidate == candidate and not run.workload.is_left_out(one)]
    if records and not any(record.is_judged for record in records):
        raise UserError(f"{label} computes no model, so there is nothing to deploy; --choose another")
    sound = [one for one in records if one.status == "ok" and one.samples and not run.is_implausible(one)]
    if not sound:
        why = next((f"{record.status}: {record.reason}" for record in records if record.reason), "no cell of it is ok")
        raise UserError(f"{label} was not measured ({why}); --choose another, or measure it again")
    left_out = [str(record.point) for record in records if record not in sound]
    notes = [f"not promised, as they were not measured: {', '.join(left_out)}"] if left_out else []
    notes += [CUT] if run.integrity == "cut" and run.path is not None else []
    return Selection(candidate, tuple(sound), (*reasons, *notes))


def check_parity_of(label: str, verdict: str, least: str, reason: str) -> None:
    """Raise NotTheSameModelError if `verdict` is worse than `least`."""
    if not is_within(verdict, least):
        remedy = f"; --min-parity {verdict} bundles it all the same" if verdict in PARITIES else ""
        raise NotTheSameModelError(f"{label} is {verdict}, and {least} is asked for ({reason}){remedy}")


def plain(name: str, most: int = 60) -> str:
    """A model's name without what a comment, a file's name or a Triton name could not hold."""
    found = re.sub(r"[^\w.@-]+", "_", name.rstrip("/").rpartition("/")[2] or name, flags=re.ASCII)
    return found.strip("_.")[:most] or "model"
