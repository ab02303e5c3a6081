"""The first screen: the answer, by how much, the same model or not, the machine, and what else was going on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.choose import lines as choice_lines
from bench.choose.api import choose
from bench.choose.candidates import is_of_shapes
from bench.choose.choice import Choice
from bench.columns import DASH, count, factor, span
from bench.errors import UserError
from bench.report import parts
from bench.report.page.entries import TONES, Entry, as_number, labels, names
from bench.run import alike, leads, state
from bench.run.record import Run, is_unsteady


@dataclass(frozen=True)
class Fact:
    """One thing that the first screen answers."""

    title: str
    value: str
    detail: str = ""
    tone: str = ""
    """Of `TONES`."""


@dataclass(frozen=True)
class Answer:
    """The first screen."""

    headline: str
    facts: Sequence[Fact] = ()
    alarms: Sequence[str] = ()
    """What a reader must know before believing any of it."""
    lines: Sequence[str] = ()
    details: Sequence[tuple[str, Sequence[str]]] = ()
    """Lists that are folded away, by their titles."""


def answer(runs: Sequence[Run], of: Sequence[Entry]) -> Answer:
    """What the page says before all else: the runtime to take, if a choice can rest on such runs."""
    choices = _choices(runs) if all(is_of_shapes(run.workload) for run in runs) else []
    choice = choices[0] if len(choices) == 1 and isinstance(choices[0], Choice) else None
    ahead = _ahead(runs) if choice is None else _margin(choice)
    facts = [_measured(runs, of), *ahead, _parity(of), _machine(runs), _disturbed(of)]
    alarms = list(_alarms(runs))
    read = list(dict.fromkeys(line for run in runs for line in run.workload.heading(run)))
    if not choices:
        told = [run.workload.answer(run) for run in runs]
        several = (f"{label}: {line}" for label, line in zip(labels(runs), told, strict=True))
        return Answer(told[0] if len(set(told)) == 1 else "; ".join(several), facts, alarms, read)
    alarms += [f"These runs do not compare: {line}" for line in alike.obstacles(runs)]
    details = [("How to read the figures", read)]
    if choice is not None:
        unknown = choice_lines.not_measured(choice)
        details = [("Does not qualify", choice_lines.failures(choice)), ("What this does not know", unknown), *details]
        lines = [f"traffic: {choice.traffic.source}", *choice_lines.lines(choice)]
        return Answer(_headline(choice), facts, alarms, lines, details)
    if len(choices) > 1:
        each = [f"{label}: {_headline(one)}" for label, one in zip(labels(runs), choices, strict=True)]
        return Answer("These runs do not compare: one choice a run", facts, alarms, each, details)
    return Answer(_headline(choices[0]), facts, alarms, [str(choices[0])], details)


def _choices(runs: Sequence[Run]) -> list[Choice | UserError]:
    """The choice among all `runs`, or one for each of them if they do not compare."""
    apart = [[run] for run in runs] if len(runs) > 1 and alike.obstacles(runs) else [runs]
    found: list[Choice | UserError] = []
    for some in apart:
        losses = [getattr(run.options, "max_loss", None) or 0.0 for run in some]
        try:
            found.append(choose(some, max_loss=max(losses) if all(losses) else None))
        except UserError as error:  # nothing was measured, by `null` alone, or the file was altered
            found.append(error)
    return found


def _headline(choice: Choice | UserError) -> str:
    headline = "There is nothing to choose" if isinstance(choice, UserError) else choice_lines.headline(choice)
    return headline[:1].upper() + headline[1:]


def _margin(choice: Choice) -> Iterator[Fact]:
    """How far the runtime to take is ahead of the next."""
    first, other, ratio = choice.chosen or choice.leader, choice.runner_up, choice.ratio
    if first is None:
        return
    if other is None:
        yield Fact("By how much", DASH, "no other runtime qualifies")
        return
    detail = f"{first.label} and {other.label}: how much is not known"
    times = "not known"
    if ratio is not None and ratio.interval is not None:
        low, high = ratio.interval.low, ratio.interval.high
        times = f"{factor(ratio.value, (high - low) / 2)}×" if not is_unsteady(ratio) else f"{span(low, high)}×"
        detail = f"as fast as {other.label}; {ratio.confidence:.0%} interval {span(low, high)}"
    bound = choice_lines.share(choice.regrets[first.label].bound)
    detail += "" if bound == choice_lines.share(0.0) else f"; at most {bound} behind the best"
    known, tone = (times, "good") if choice.is_decided else ("undecided", "doubtful")
    yield Fact("By how much", known, detail, tone)


def _measured(runs: Sequence[Run], of: Sequence[Entry]) -> Fact:
    measured = sum(entry.is_measured for entry in of)
    tone = "good" if measured == len(of) and of else "doubtful" if measured else "bad"
    points = count(len({entry.place for entry in of}), runs[0].workload.point_noun)
    detail = f"{count(len(names(of)), 'backend')} at {points}"
    return Fact("Measured", f"{measured} of {count(len(of), 'cell')}", detail, tone)


def _ahead(runs: Sequence[Run]) -> Iterator[Fact]:
    """How far ahead the fastest is, from its least to its most; nothing if no two candidates compare."""
    led = [lead for run in runs for lead in leads.leads(run) if lead.winner is not None and lead.runner_up is not None]
    if not led:
        return
    told = sorted((lead for lead in led if lead.text.endswith("×")), key=lambda lead: lead.ratio.value)  # type: ignore[union-attr]
    doubtful = sum(not lead.is_decided for lead in led)
    detail = f"the fastest over the next, at {len(told)} of {count(len(led), runs[0].workload.point_noun)}"
    detail += f"; {doubtful} undecided" if doubtful else ""
    if told:
        span = " to ".join(dict.fromkeys((told[0].text, told[-1].text)))
        yield Fact("By how much", span, detail, "good" if not doubtful else "")
    else:
        yield Fact("By how much", "undecided" if doubtful else "the same", detail, "doubtful")


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
    dates = sorted({run.started[:10] for run in runs})
    when = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    return Fact("Machine", "; ".join(dict.fromkeys(parts.machine(run) for run in runs)), when)


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
        if lost := sum(record.status != "ok" and not run.workload.is_left_out(record) for record in run.records):
            cells = count(len(run.records), "cell")
            found.append(f"{lost} of {cells} could not be measured; see the reasons under Not measured")
        if implausible := sum(run.is_implausible(record) for record in run.records):
            found.append(f"{count(implausible, 'cell')} implausible: faster than this machine's peak allows")
        yield from (": ".join(filter(None, (label, line))) for line in found if line)
