"""A choice in sentences: what to take, why, what the others fail, and what was not measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backends import BUILT_IN
from bench import machine
from bench.choose.candidates import DEPRECATED, Weighed, places_of
from bench.choose.choice import CONFIDENCE, SIMPLICITY, WORTH_OF_SIMPLICITY, Choice, ranked
from bench.choose.failures import largest_error, percent
from bench.choose.grid import INTERPOLATED, ROUNDED_UP
from bench.columns import factor
from bench.run import state
from bench.run.record import SAME_MODEL, UNSTEADY, Run, is_unsteady
from bench.spec import Shape
from bench.traffic import duration

UNIT = {"latency": "request", "throughput": "sequence", "cost": "sequence"}
DEPRECATION_MARK = "†"
#: Shapes that are named one by one; more are counted.
MOST_NAMED = 4


def headline(choice: Choice) -> str:
    """One line: what to take and by how much, or that nothing qualifies."""
    chosen, other, ratio = choice.chosen, choice.runner_up, choice.ratio
    word = "cheap" if choice.objective == "cost" else "fast"
    if chosen is None:
        is_unknown = all(failure.is_unknown for one in choice.candidates for failure in one.failures)
        return "take none: " + (
            "whether any runtime keeps what is asked is not known" if is_unknown else "no runtime keeps what is asked"
        )
    if other is None or ratio is None:
        return f"take {chosen.label}: no other runtime qualifies"
    simplest = "the simplest of them" if choice.is_simplest else ""
    if chosen is not choice.best:
        within = f"the simplest within {WORTH_OF_SIMPLICITY:.0%} of the best"
        return f"take {chosen.label}: it ties with {_names(choice.tied_with_chosen)}, and is {simplest or within}"
    if choice.tied:
        tie = f"{word}est, in a tie with {_names(choice.tied)}"
        return f"take {chosen.label}: {tie}" + (f", and {simplest}" if simplest else "")
    disturbed = ", on a disturbed machine" if len(chosen.disturbed) == len(chosen.records) else ""
    lead = f"{factor(ratio.value)}× as {word} as {other.label}, the next"
    if ratio.interval is not None and is_unsteady(ratio):
        ends = f"{factor(ratio.interval.low)}–{factor(ratio.interval.high)}×"
        lead = f"{word}er than {other.label}, the next ({ends})"
    return f"take {chosen.label}: {lead}{disturbed}"


def lines(choice: Choice) -> list[str]:
    """Why, one line a reason; nothing for a choice of none."""
    chosen = choice.chosen
    return [] if chosen is None or chosen.mean_ns is None else list(_reasons(choice, chosen, chosen.mean_ns))


def _reasons(choice: Choice, chosen: Weighed, mean_ns: float) -> Iterator[str]:
    interval = chosen.interval
    span = f" (95% interval {duration(interval.low)} to {duration(interval.high)})" if interval else ""
    if not choice.traffic.is_given and choice.objective == "latency":
        yield f"{duration(mean_ns)} a request in the mean of all shapes{span}, each for the same share of time"
    else:
        yield f"{duration(mean_ns)} a {UNIT[choice.objective]} in the mean{span}"
    if choice.tied and choice.best is not None:
        yield (
            f"a tie: {_names((choice.best, *choice.tied))} differ by no more than the measurement can tell; "
            f"of those whose own figure is within {WORTH_OF_SIMPLICITY:.0%} of the best the simplest is taken, in the "
            f"order {', '.join(SIMPLICITY)}, fp32 first, then others"
        )
    yield from _if_wrong(choice)
    yield from _starts(choice, chosen)
    if chosen.batches:
        yield f"its best batches: {_some([f'{batch} at length {n}' for n, batch in sorted(chosen.batches.items())])}"
    same = "the same model" if chosen.verdict in SAME_MODEL else "not the same model any more, as --min-parity lets it"
    yield f"{same}: {chosen.verdict}{largest_error(chosen.worst_parity)}"
    yield from chosen.notes


def _if_wrong(choice: Choice) -> Iterator[str]:
    """What the other choice would cost, and what this one does where the measurement errs."""
    ratio, other = choice.ratio, choice.runner_up
    if ratio is None or other is None:
        return
    if ratio.interval is None:
        yield f"a single round says so, and no interval how sure that is: more --rounds tell it from {other.label}"
        return
    low, high = ratio.interval.low, ratio.interval.high
    worst = f"{_more(1 / low)} than {other.label}" if low < 1 else f"no more than {other.label}"
    told = f"this choice at worst {worst}; {other.label} in its place {_more(high) if high > 1 else 'nothing more'}"
    yield f"what a mistake would cost, by the {CONFIDENCE:.0%} interval: {told}"


def _more(times: float) -> str:
    return f"up to {times - 1:.0%} more" if times < UNSTEADY else f"up to {factor(times - 1)} times more"


def _starts(choice: Choice, chosen: Weighed) -> Iterator[str]:
    """How long the start takes, and after how much work it has paid back against others of that machine."""
    if chosen.one_time_seconds is None:
        return
    first = "its first call"
    if chosen.has_static_shapes:
        shapes = len(chosen.demand.calls)
        first = "the first call of its one shape" if shapes == 1 else f"the first call of each of {shapes} shapes"
    others = [one for one in ranked(choice.candidates) if one is not chosen and _is_on_its_machine(chosen, one)]
    timed = [one for one in others if one.one_time_seconds is not None and one not in choice.tied_with_chosen]
    after, never = [], []
    for one in timed:
        units, told = choice.pays_back_after(one), f"{one.label} ({one.one_time_seconds:.1f} s)"
        if units is None:
            never.append(told)
        elif units:
            after.append(f"{units:,.0f} {UNIT[choice.objective]}s against {told}")
    found = [f"pays back after {_some(after)}"] if after else []
    found += [f"never pays back against {_some(never)}"] if never else []
    if timed and not found:
        found = [f"no later than the others that {'qualify' if len(timed) == len(others) else 'were timed'}"]
    said = f": {'; '.join(found)}" if found else ""
    yield f"starts in {chosen.one_time_seconds:,.1f} s (loading and {first}){said}"


def _is_on_its_machine(one: Weighed, other: Weighed) -> bool:
    return one.run is other.run or not machine.same_machine(one.run.fingerprint, other.run.fingerprint)


def failures(choice: Choice) -> list[str]:
    """What each runtime that does not qualify fails, and by how much; one line each."""
    return [
        f"{one.label}: {_some([failure.reason for failure in one.failures], '; ', '; ')}"
        for one in choice.candidates
        if one.failures
    ]


def not_measured(choice: Choice) -> list[str]:
    """What the choice does not know, one line each, with the command that would tell."""
    return list(_unknown(choice, runs_of(choice)))


def _unknown(choice: Choice, runs: Sequence[Run]) -> Iterator[str]:
    for number, run in enumerate(runs, start=1):
        of_run = f"run {number}: " if len(runs) > 1 else ""
        yield from (of_run + line for line in (state.of_file(run), state.incomplete(run)) if line)
    if choice.outside:
        most = [str(shape) for shape, _ in sorted(choice.outside, key=lambda entry: -entry[1])]
        yield (
            f"{percent(sum(share for _, share in choice.outside))} of the requests lie beyond the measured grid or in "
            f"a hole of it, and count for nothing in the time here: {_some(most)}; "
            f"measure with {_options(runs[0], [shape for shape, _ in choice.outside])}"
        )
    demand = next((c.demand for c in (choice.chosen, *choice.candidates) if c is not None and c.demand.calls), None)
    if demand and (between := demand.share_of(INTERPOLATED)):
        yield (
            f"{percent(between)} of the calls lie between measured shapes: their times are interpolated, linearly "
            "over batch and length"
        )
    if demand and (above := demand.share_of(ROUNDED_UP)):
        yield f"{percent(above)} of the calls are smaller than the smallest measured shape, and taken for that"
    measured = {candidate.backend for run in runs for candidate in run.candidates}
    if others := [name for name in BUILT_IN if name not in measured and name != "null"]:
        yield f"not among the runtimes: {', '.join(others)}; bench compare --backends …,{others[0]}"
    if not choice.traffic.is_given:
        yield "your traffic: --traffic FILE weighs the shapes as they come"
    if all("random" in run.model.origin for run in runs):
        yield "pretrained weights: parity was judged on seeded random ones"
    waits = "in a queue" if choice.objective == "latency" else "for their batch to fill"
    yield f"how long requests wait {waits}: calls were made one after another; bench load says it"


def _options(run: Run, shapes: Sequence[Shape]) -> str:
    """Options of a grid that reaches to the largest of `shapes`."""
    batches = {shape.batch for shape in places_of(run)} | {max(shape.batch for shape in shapes)}
    lengths = {shape.length for shape in places_of(run)} | {max(shape.length for shape in shapes)}
    return f"--batches {','.join(map(str, sorted(batches)))} --lengths {','.join(map(str, sorted(lengths)))}"


def deprecations(choice: Choice) -> list[str]:
    """What upstream says of backends among the candidates, behind the mark that their labels have."""
    found = dict.fromkeys(c.candidate.backend for c in choice.candidates if c.is_deprecated)
    return [f"{DEPRECATION_MARK} {DEPRECATED[backend]}" for backend in found]


def runs_of(choice: Choice) -> list[Run]:
    """The runs that it was made among, in their order."""
    return list({id(candidate.run): candidate.run for candidate in choice.candidates}.values())


def _names(candidates: Sequence[Weighed]) -> str:
    labels = [candidate.label for candidate in candidates]
    return " and ".join([", ".join(labels[:-1]), labels[-1]] if len(labels) > 1 else labels)


def _some(words: Sequence[str], joint: str = ", ", last: str = " ") -> str:
    """The first few of `words`, and how many more there are."""
    rest = len(words) - MOST_NAMED
    return joint.join(words[:MOST_NAMED]) + (f"{last}and {rest} more" if rest > 0 else "")
