"""Which runtime of a run is bundled: the one that was named, or the one that `choose` takes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.bundle.errors import NothingQualifiesError, NotTheSameModelError
from bench.errors import UserError
from bench.parity.verdict import OUTCOMES, is_within
from bench.run.record import Record, Run
from bench.spec import Candidate, nearest

#: What `min_parity` may be: verdicts of a model that was judged and is not broken.
PARITIES = ("exact", "equivalent", "lossy")
CUT = "the run's file has no seal: it was killed or goes on, and further records may be missing"


@dataclass(frozen=True)
class Constraints:
    """What `choose` decides by, as its arguments; `min_parity` also holds for a runtime that was named."""

    min_parity: str = "equivalent"
    others: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `bench.choice.api.choose`: those that were given."""


@dataclass(frozen=True)
class Selection:
    """The runtime to bundle, its measured cells, and why it was taken."""

    candidate: Candidate
    records: tuple[Record, ...]
    """Those with status ok and a median that the machine can do."""
    reasons: tuple[str, ...]
    label: str
    """`onnx fp32`."""

    @property
    def verdict(self) -> str:
        """The worst parity verdict among its cells."""
        return max((record.verdict or "unjudged" for record in self.records), key=OUTCOMES.index)


def select(run: Run, name: str | None, constraints: Constraints) -> Selection:
    """The runtime `name` of `run`, or the winner under `constraints`; refused below `constraints.min_parity`.

    Raises UserError for a name or constraint that cannot be, NothingQualifiesError and NotTheSameModelError.
    """
    if constraints.min_parity not in PARITIES:
        near = nearest(constraints.min_parity, PARITIES)
        raise UserError(f"--min-parity {constraints.min_parity!r}{near or ' is none'}; use {', '.join(PARITIES)}")
    if name is not None and constraints.others:
        given = ", ".join(f"--{option.replace('_', '-')}" for option in constraints.others)
        raise UserError(f"--choose {name} names the runtime, so {given} would decide nothing; leave one of them out")
    if name is None:
        candidate, reasons = winner(run, constraints)
    else:
        candidate, reasons = named(run, name), (f"named by --choose {name}",)
    found = _measured(run, candidate, reasons)
    check_parity_of(found.label, found.verdict, constraints.min_parity, _worst_reason(found))
    return found


def winner(run: Run, constraints: Constraints) -> tuple[Candidate, tuple[str, ...]]:
    """The candidate that `choose` takes, and its reasons; raises NothingQualifiesError."""
    from bench.choose.api import choose
    from bench.choose.lines import headline, lines

    choice = choose(run, min_parity=constraints.min_parity, **constraints.others)
    if choice.chosen is None:
        raise NothingQualifiesError(f"{headline(choice)}; `bench choose` says why, and --choose NAME overrules it")
    return choice.chosen.candidate, (headline(choice), *lines(choice))


def named(run: Run, name: str) -> Candidate:
    """The candidate of `run` that the user calls `backend[:variant][/precision]`; raises UserError."""
    label, slash, precision = name.partition("/")
    known = {f"{one.label}/{one.precision}": one for one in run.candidates}
    alike = [one for one in known.values() if one.label == label]
    if slash:
        alike = [one for one in alike if one.precision == precision]
    if not alike:
        labels = [one.label for one in known.values()]
        near = nearest(name, known) or nearest(label, labels)
        raise UserError(f"--choose {name[:60]!r} is none of this run{near}; it has {', '.join(known)}")
    if len(alike) > 1:
        choices = " or ".join(f"{one.label}/{one.precision}" for one in alike)
        raise UserError(f"--choose {name} was measured at {len(alike)} precisions; write {choices}")
    return alike[0]


def _measured(run: Run, candidate: Candidate, reasons: Sequence[str]) -> Selection:
    """The cells of `candidate` that a bundle can promise times for; raises UserError without any."""
    label = f"{candidate.label} {candidate.precision}"
    records = [
        record for record in run.records if record.candidate == candidate and not run.workload.is_left_out(record)
    ]
    if records and not any(record.is_judged for record in records):
        raise UserError(f"{label} computes no model, so there is nothing to deploy; --choose another")
    sound = [
        record for record in records if record.status == "ok" and record.samples and not run.is_implausible(record)
    ]
    if not sound:
        why = next((f"{record.status}: {record.reason}" for record in records if record.reason), "no cell of it is ok")
        raise UserError(f"{label} was not measured ({why}); --choose another, or measure it again")
    left_out = [str(record.point) for record in records if record not in sound]
    notes = [f"not promised, as they were not measured: {', '.join(left_out)}"] if left_out else []
    notes += [CUT] if run.integrity == "cut" and run.path is not None else []
    return Selection(candidate, tuple(sound), (*reasons, *notes), label)


def check_parity_of(label: str, verdict: str, least: str, reason: str) -> None:
    """Raise NotTheSameModelError if `verdict` is worse than `least`."""
    if is_within(verdict, least):
        return
    remedy = "; --min-parity lossy bundles it all the same" if verdict == "lossy" else ""
    remedy = "; --min-parity equivalent bundles it all the same" if verdict == "equivalent" else remedy
    raise NotTheSameModelError(f"{label} is {verdict}, and {least} is asked for ({reason}){remedy}")


def _worst_reason(found: Selection) -> str:
    worst = max(found.records, key=lambda record: OUTCOMES.index(record.verdict or "unjudged"))
    return f"{worst.point}: {worst.parity.get('reason', 'it was not judged')}"


def plain(name: str, most: int = 60) -> str:
    """A model's name without what a comment, a file's name or a Triton name could not hold."""
    return (
        re.sub(r"[^\w.@-]+", "_", name.rstrip("/").rpartition("/")[2] or name, flags=re.ASCII).strip("_.")[:most]
        or "model"
    )
