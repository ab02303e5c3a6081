"""A choice in sentences: what to take, why, what the others fail, and what was not measured."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from backends import BUILT_IN
from bench import machine
from bench.choose.candidates import DEPRECATED, Weighed, places_of
from bench.choose.choice import CONFIDENCE, SIMPLICITY, WORTH_OF_SIMPLICITY, Choice
from bench.choose.failures import percent
from bench.choose.grid import INTERPOLATED, ROUNDED_UP
from bench.columns import factor
from bench.run import state
from bench.run.record import SAME_MODEL, UNSTEADY, Run, is_unsteady
from bench.spec import Shape
from bench.traffic import duration

BETTER = {"latency": "as fast as", "throughput": "as fast as", "cost": "as cheap as"}
LEADS = {"latency": "faster than", "throughput": "faster than", "cost": "cheaper than"}
UNIT = {"latency": "request", "throughput": "sequence", "cost": "sequence"}
DEPRECATION_MARK = "†"
#: Shapes that are named one by one; more are counted.
MOST_NAMED = 4


def headline(choice: Choice) -> str:
    """One line: what to take and by how much, or that nothing qualifies."""
    chosen, other = choice.chosen, choice.runner_up
    if chosen is None:
        if all(failure.is_unknown for candidate in choice.candidates for failure in candidate.failures):
            return "take none: whether any runtime keeps what is asked is not known"
        return "take none: no runtime keeps what is asked"
    if other is None:
        return f"take {chosen.label}: no other runtime qualifies"
    if chosen is not choice.best:
        return f"take {chosen.label}: it ties with {_names(choice.tied_with_chosen)}, and is {_simplest(choice)}"
    ratio = choice.ratio
    if choice.tied:
        best = "cheapest" if choice.objective == "cost" else "fastest"
        simplest = ", and the simplest of them" if choice.is_simplest else ""
        return f"take {chosen.label}: {best}, in a tie with {_names(choice.tied)}{simplest}"
    assert ratio is not None
    disturbed = ", on a disturbed machine" if _is_disturbed(chosen) else ""
    if ratio.interval is not None and is_unsteady(ratio):
        ends = f"{factor(ratio.interval.low)}–{factor(ratio.interval.high)}×"
        return f"take {chosen.label}: {LEADS[choice.objective]} {other.label}, the next ({ends}){disturbed}"
    by = f"{factor(ratio.value)}× {BETTER[choice.objective]} {other.label}"
    return f"take {chosen.label}: {by}, the next{disturbed}"


def _simplest(choice: Choice) -> str:
    """How the chosen one stands among those that it ties with, where it is not the fastest of them."""
    return (
        "the simplest of them" if choice.is_simplest else f"the simplest within {WORTH_OF_SIMPLICITY:.0%} of the best"
    )


def _is_disturbed(candidate: Weighed) -> bool:
    """True where other work disturbed every cell that it rests on."""
    return all(candidate.run.disturbances(record) for record in candidate.records.values())


def lines(choice: Choice) -> list[str]:
    """Why, one line a reason; for a choice of none, what each runtime fails."""
    chosen = choice.chosen
    if chosen is None or chosen.mean_ns is None:
        return []
    found = [_time_line(choice, chosen)]
    if choice.tied:
        order = ", ".join(SIMPLICITY)
        found.append(
            f"a tie: {_names((choice.best, *choice.tied))} differ by no more than the measurement can tell; "
            f"of those whose own figure is within {WORTH_OF_SIMPLICITY:.0%} of the best the simplest is taken, in the "
            f"order {order}, fp32 first, then others"
        )
    found += _if_wrong(choice)
    found += _starts(choice)
    if chosen.batches:
        shown = [f"{batch} at length {length}" for length, batch in sorted(chosen.batches.items())]
        found.append(f"its best batches: {_some(shown)}")
    worst = chosen.worst_parity
    off = f", max |Δ| {worst.parity['max_abs_error']:.1e} at {worst.point}" if worst else ""
    same = "the same model" if chosen.verdict in SAME_MODEL else "not the same model any more, as --min-parity lets it"
    found.append(f"{same}: {chosen.verdict}{off}")
    return found + chosen.notes


def failures(choice: Choice) -> list[str]:
    """What each runtime that does not qualify fails, and by how much; one line each."""
    return [
        f"{candidate.label}: {'; '.join(_shortened([failure.reason for failure in candidate.failures]))}"
        for candidate in choice.candidates
        if candidate.failures
    ]


def not_measured(choice: Choice) -> list[str]:
    """What the choice does not know, one line each, with the command that would tell."""
    runs = runs_of(choice)
    found = []
    for number, run in enumerate(runs, start=1):
        of_run = f"run {number}: " if len(runs) > 1 else ""
        found += [of_run + line for line in (state.of_file(run), state.incomplete(run)) if line]
    if choice.outside:
        share = sum(share for _, share in choice.outside)
        most = sorted(choice.outside, key=lambda entry: -entry[1])
        found.append(
            f"{percent(share)} of the requests lie beyond the measured grid or in a hole of it, and count for nothing "
            "in the time here: "
            f"{_some([str(shape) for shape, _ in most])}; {_command(runs[0], [shape for shape, _ in choice.outside])}"
        )
    demand = next((c.demand for c in (choice.chosen, *choice.candidates) if c is not None and c.demand.calls), None)
    if demand is not None:
        if between := demand.share_of(INTERPOLATED):
            found.append(
                f"{percent(between)} of the calls lie between measured shapes: their times are interpolated, linearly "
                "over batch and length"
            )
        if above := demand.share_of(ROUNDED_UP):
            found.append(
                f"{percent(above)} of the calls are smaller than the smallest measured shape, and taken for that"
            )
    measured = {candidate.backend for run in runs for candidate in run.candidates}
    if others := [name for name in BUILT_IN if name not in measured and name != "null"]:
        found.append(f"not among the runtimes: {', '.join(others)}; bench compare --backends …,{others[0]}")
    if not choice.traffic.is_given:
        found.append("your traffic: --traffic FILE weighs the shapes as they come")
    if all("random" in run.model.origin for run in runs):
        found.append("pretrained weights: parity was judged on seeded random ones")
    waits = "in a queue" if choice.objective == "latency" else "for their batch to fill"
    found.append(f"how long requests wait {waits}: calls were made one after another; bench load says it")
    return found


def deprecations(choice: Choice) -> list[str]:
    """What upstream says of backends among the candidates, behind the mark that their labels have."""
    found = dict.fromkeys(c.candidate.backend for c in choice.candidates if c.is_deprecated)
    return [f"{DEPRECATION_MARK} {DEPRECATED[backend]}" for backend in found]


def _time_line(choice: Choice, chosen: Weighed) -> str:
    assert chosen.mean_ns is not None
    interval = chosen.interval
    span = f" (95% interval {duration(interval.low)} to {duration(interval.high)})" if interval else ""
    unit = UNIT[choice.objective]
    if not choice.traffic.is_given and choice.objective == "latency":
        return f"{duration(chosen.mean_ns)} a request in the mean of all shapes{span}, each for the same share of time"
    return f"{duration(chosen.mean_ns)} a {unit} in the mean{span}"


def _if_wrong(choice: Choice) -> list[str]:
    """What the other choice would cost, and what this one does where the measurement errs."""
    ratio, other = choice.ratio, choice.runner_up
    if ratio is None or other is None:
        return []
    if ratio.interval is None:
        return [f"a single round says so, and no interval how sure that is: more --rounds tell it from {other.label}"]
    low, high = ratio.interval.low, ratio.interval.high
    worst = f"{_more(1 / low)} than {other.label}" if low < 1 else f"no more than {other.label}"
    best = _more(high) if high > 1 else "nothing more"
    told = f"this choice at worst {worst}; {other.label} in its place {best}"
    return [f"what a mistake would cost, by the {CONFIDENCE:.0%} interval: {told}"]


def _more(times: float) -> str:
    return f"up to {times - 1:.0%} more" if times < UNSTEADY else f"up to {factor(times - 1)} times more"


def _starts(choice: Choice) -> list[str]:
    """How long the start takes, and after how much work it has paid back against others of that machine."""
    chosen = choice.chosen
    if chosen is None or chosen.one_time_seconds is None:
        return []
    first = "its first call"
    if chosen.has_static_shapes:
        shapes = len(chosen.demand.calls)
        first = "the first call of its one shape" if shapes == 1 else f"the first call of each of {shapes} shapes"
    found = f"starts in {chosen.one_time_seconds:,.1f} s (loading and {first})"
    others = [other for other in choice.qualified if other is not chosen and _is_on_its_machine(chosen, other)]
    after, never, unknown = [], [], []
    for other in others:
        if other.one_time_seconds is None or other in choice.tied_with_chosen:
            unknown.append(other.label)
        elif other.one_time_seconds < chosen.one_time_seconds:
            units = choice.pays_back_after(other)
            told = f"{other.label} ({other.one_time_seconds:.1f} s)"
            if units is None:
                never.append(told)
            else:
                after.append(f"{units:,.0f} {UNIT[choice.objective]}s against {told}")
    lines = [f"pays back after {_some(after)}"] if after else []
    lines += [f"never pays back against {_some(never)}"] if never else []
    if others and not after and not never and len(unknown) < len(others):
        lines.append("no later than the others that were timed" if unknown else "no later than the others that qualify")
    return [": ".join([found, "; ".join(lines)]) if lines else found]


def _is_on_its_machine(one: Weighed, other: Weighed) -> bool:
    return one.run is other.run or not machine.same_machine(one.run.fingerprint, other.run.fingerprint)


def _command(run: Run, shapes: Sequence[Shape]) -> str:
    batches = sorted({shape.batch for shape in places_of(run)} | {max(shape.batch for shape in shapes)})
    lengths = sorted({shape.length for shape in places_of(run)} | {max(shape.length for shape in shapes)})
    words = ["--batches", ",".join(map(str, batches)), "--lengths", ",".join(map(str, lengths))]
    return f"measure with {shlex.join(words)}"


def runs_of(choice: Choice) -> list[Run]:
    """The runs that it was made among, in their order."""
    found: list[Run] = []
    for candidate in choice.candidates:
        if not any(candidate.run is run for run in found):
            found.append(candidate.run)
    return found


def _names(candidates: Sequence[Weighed | None]) -> str:
    labels = [candidate.label for candidate in candidates if candidate is not None]
    return " and ".join([", ".join(labels[:-1]), labels[-1]] if len(labels) > 1 else labels)


def _some(words: Sequence[str]) -> str:
    """The first few of `words`, and how many more there are."""
    rest = len(words) - MOST_NAMED
    return ", ".join(words[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _shortened(reasons: Sequence[str]) -> list[str]:
    rest = len(reasons) - MOST_NAMED
    return [*reasons[:MOST_NAMED], *([f"and {rest} more"] if rest > 0 else [])]
