"""The first screen: the answer, by how much, the same model or not, the machine, and what else was going on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.choose.choice import CONFIDENCE, Choice
from bench.columns import DASH, count, factor
from bench.report import parts
from bench.report.page.chosen import chosen
from bench.report.page.entries import Entry, as_number, labels, names
from bench.report.page.tables import TONES
from bench.run import alike, leads, state
from bench.run.record import Run


@dataclass(frozen=True)
class Fact:
    """One thing that the first screen answers."""

    title: str
    value: str
    detail: str = ""
    tone: str = ""
    """As of `tables.Cell`."""


@dataclass(frozen=True)
class Answer:
    """The first screen."""

    headline: str
    facts: tuple[Fact, ...]
    alarms: tuple[str, ...]
    """What a reader must know before believing any of it."""
    lines: tuple[str, ...]
    details: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Lists that are folded away, by their titles."""


def answer(runs: Sequence[Run], of: Sequence[Entry]) -> Answer:
    """What the page says before all else."""
    found = chosen(runs)
    ahead = _margin(found.choice) if found is not None and found.choice is not None else _ahead(runs)
    facts = (_measured(runs, of), *ahead, _parity(of), _machine(runs), _disturbed(of))
    lines = tuple(dict.fromkeys(line for run in runs for line in run.workload.heading(run)))
    if found is None:
        return Answer(_headline(runs), facts, tuple(_alarms(runs)), lines)
    details = (
        ("Does not qualify", found.failures),
        ("What this does not know", found.unknown),
        ("How to read the figures", lines),
    )
    alarms = [*_alarms(runs), *(f"These runs do not compare: {line}" for line in alike.obstacles(runs))]
    return Answer(found.headline, facts, tuple(alarms), found.lines, details)


def _margin(choice: Choice) -> Iterator[Fact]:
    """How far the runtime to take is ahead of the next."""
    if choice.chosen is None:
        return
    if choice.runner_up is None or choice.ratio is None:
        yield Fact("By how much", DASH, "no other runtime qualifies")
        return
    ratio, other = choice.ratio, choice.runner_up
    ends = ratio.interval
    span = f"; {CONFIDENCE:.0%} interval {factor(ends.low)}–{factor(ends.high)}" if ends else "; a single round"
    detail = f"as fast as {other.label}{span}"
    if choice.is_tie:
        yield Fact("By how much", "a tie", f"{factor(ratio.value)}× {detail}", "doubtful")
        return
    yield Fact("By how much", f"{factor(ratio.value)}×", detail, "good")


def _headline(runs: Sequence[Run]) -> str:
    found = [run.workload.answer(run) for run in runs]
    if len(set(found)) == 1:
        return found[0]
    return "; ".join(f"{label}: {line}" for label, line in zip(labels(runs), found, strict=True))


def _measured(runs: Sequence[Run], of: Sequence[Entry]) -> Fact:
    measured = sum(entry.is_measured for entry in of)
    backends = len(names(of))
    value = f"{measured} of {count(len(of), 'cell')}"
    tone = "good" if measured == len(of) and of else "doubtful" if measured else "bad"
    points = len({entry.place for entry in of})
    noun = runs[0].workload.point_noun
    return Fact("Measured", value, f"{count(backends, 'backend')} at {count(points, noun)}", tone)


def _ahead(runs: Sequence[Run]) -> Iterator[Fact]:
    """How far ahead the fastest is, from its least to its most; nothing if no two candidates compare."""
    led = [lead for run in runs for lead in leads.leads(run) if lead.winner is not None and lead.runner_up is not None]
    if not led:
        return
    told = [lead for lead in led if lead.text.endswith("×")]
    ties = sum(lead.is_tie for lead in led)
    noun = runs[0].workload.point_noun
    detail = f"the fastest over the next, at {len(told)} of {count(len(led), noun)}"
    detail += f"; {count(ties, 'tie')}" if ties else ""
    if not told:
        yield Fact("By how much", "a tie" if ties == len(led) else "not known", detail, "doubtful")
        return
    texts = [min(told, key=_times).text, max(told, key=_times).text]
    yield Fact("By how much", " to ".join(dict.fromkeys(texts)), detail, "good" if not ties else "")


def _times(lead: leads.Lead) -> float:
    return lead.ratio.value if lead.ratio is not None else 1.0


def _parity(of: Sequence[Entry]) -> Fact:
    judged = [entry for entry in of if entry.record.verdict]
    if not judged:
        return Fact("Same model?", DASH, "nothing was judged")
    order = list(TONES)
    worst = max((entry.record.verdict for entry in judged), key=lambda one: order.index(one) if one in order else 0)
    broken = list(dict.fromkeys(entry.name for entry in judged if entry.record.verdict == "broken"))
    errors = [error for entry in judged if (error := as_number(entry.record.parity.get("max_abs_error"))) is not None]
    told = [f"max |Δ| {max(errors):.1e} over {count(len(errors), 'cell')}"] if errors else []
    told.append(f"broken: {', '.join(broken)}" if broken else "no backend is broken")
    return Fact("Same model?", worst, "; ".join(told), TONES.get(worst, "doubtful"))


def _machine(runs: Sequence[Run]) -> Fact:
    lines = list(dict.fromkeys(parts.machine(run) for run in runs))
    dates = sorted({run.started[:10] for run in runs})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return Fact("Machine", "; ".join(lines), when)


def _disturbed(of: Sequence[Entry]) -> Fact:
    measured = [entry for entry in of if entry.is_measured]
    if not measured:
        return Fact("Disturbed?", DASH, "nothing was measured")
    watched = sum(bool(entry.record.conditions) for entry in measured)
    if not watched:
        return Fact("Disturbed?", "not known", "nothing watched the machine while it was measured", "doubtful")
    found = [lines for entry in measured if (lines := entry.run.disturbances(entry.record))]
    if not found:
        return Fact("Disturbed?", "no", f"nothing disturbed any of {count(watched, 'watched cell')}", "good")
    causes = dict.fromkeys(line for lines in found for line in lines)
    tone = "doubtful" if len(found) < len(measured) else "bad"
    return Fact("Disturbed?", f"{len(found)} of {count(len(measured), 'cell')}", "; ".join(list(causes)[:2]), tone)


def _alarms(runs: Sequence[Run]) -> Iterator[str]:
    for run, label in zip(runs, labels(runs), strict=True):
        found = [state.of_file(run), state.incomplete(run)]
        lost = sum(record.status != "ok" and not run.workload.is_left_out(record) for record in run.records)
        if lost:
            found.append(
                f"{lost} of {count(len(run.records), 'cell')} could not be measured; see the reasons under Not measured"
            )
        implausible = sum(run.is_implausible(record) for record in run.records)
        if implausible:
            found.append(f"{count(implausible, 'cell')} implausible: faster than this machine's peak allows")
        yield from (f"{label}: {line}" if label else line for line in found if line)
