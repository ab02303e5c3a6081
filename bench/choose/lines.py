"""A choice in sentences: what to take, why, what the others fail, and what was not measured."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence

from backends import BUILT_IN
from bench import machine
from bench.choose.candidates import Weighed, places_of
from bench.choose.choice import MOST_DISTURBED, SIMPLICITY, Choice
from bench.choose.failures import largest_error, percent
from bench.columns import count, factor, milliseconds, span
from bench.grid import INTERPOLATED, ROUNDED_UP
from bench.regret import CONFIDENCE, LEAST_ROUNDS, MOST_REGRET
from bench.run import state
from bench.run.record import SAME_MODEL, Run, is_unsteady
from bench.spec import DEPRECATED, Shape

UNIT = {"latency": "request", "throughput": "sequence", "cost": "sequence"}
DEPRECATION_MARK = "†"
#: Shapes that are named one by one; more are counted.
MOST_NAMED = 4
#: Values of --until-decided that are proposed, with their seconds.
SETTLED_BY = {"5m": 300.0, "15m": 900.0, "1h": 3600.0, "4h": 14400.0}


def headline(choice: Choice) -> str:
    """One line: what to take and by how much, that nothing qualifies, or that it is undecided."""
    first, other = choice.chosen or choice.leader, choice.runner_up
    if first is None:
        is_unknown = all(failure.is_unknown for one in choice.candidates for failure in one.failures)
        return "take none: " + (
            "whether any runtime keeps what is asked is not known" if is_unknown else "no runtime keeps what is asked"
        )
    if other is None:
        return f"take {first.label}: no other runtime qualifies"
    if not choice.is_decided:
        return f"undecided: {first.label} leads; {_why_undecided(choice, first, other)}"
    others = [one for one in choice.near if one is not first]
    if others:
        are = "are" if len(others) > 1 else "is"
        near = f"within {MOST_REGRET:.0%} of the best, as {_names(others)} {are}"
        return f"take {first.label}: {near}, and the simplest of them"
    times = _times(choice, first, other)
    if (behind := share(choice.regrets[first.label].bound)) != share(0.0):
        times = f"at most {behind} behind the best; {times}"
    return f"take {first.label}: {times}"


def _times(choice: Choice, first: Weighed, other: Weighed) -> str:
    """`1.43× as fast as eager, the next (1.38–1.49×, 95%)`."""
    word, ratio = "cheap" if choice.objective == "cost" else "fast", choice.ratio
    mean = "" if choice.traffic.is_given or len(first.records) < 2 else ", geometric mean of all shapes"
    if ratio is None or ratio.interval is None:
        return f"how much {word}er than {other.label}, the next, is not known"
    low, high = ratio.interval.low, ratio.interval.high
    ends, level = f"{span(low, high)}×", f"{ratio.confidence:.0%}{mean}"
    if is_unsteady(ratio):
        return f"{ends} as {word} as {other.label}, the next ({level})"
    return f"{factor(ratio.value, (high - low) / 2)}× as {word} as {other.label}, the next ({ends}, {level})"


def _why_undecided(choice: Choice, first: Weighed, other: Weighed) -> str:
    if choice.too_few and choice.too_few_share > MOST_DISTURBED:
        of_all = f"{len(choice.too_few)} of {count(len(first.records), 'shape')}"
        return f"{_reason_of_few(choice)} at {of_all}"
    return _times(choice, first, other)


def _reason_of_few(choice: Choice) -> str:
    """Why rounds are too few: the machine was disturbed, or none were taken."""
    taken = [len(one.records[at].rounds) for one in choice.order for at in choice.too_few if at in one.records]
    return "the machine was disturbed" if min(taken) >= LEAST_ROUNDS else f"fewer than {LEAST_ROUNDS} rounds were taken"


def lines(choice: Choice) -> list[str]:
    """Why, one line a reason; nothing for a choice of none."""
    first = choice.chosen or choice.leader
    return [] if first is None or first.mean_ns is None else list(_reasons(choice, first, first.mean_ns))


def _reasons(choice: Choice, first: Weighed, mean_ns: float) -> Iterator[str]:
    if choice.traffic.is_given:
        half, span_ms = None, ""
        if (interval := choice.interval_ns(first)) is not None:
            half = (interval.high - interval.low) / 2
            low, high = (milliseconds(end, half / 10) for end in (interval.low, interval.high))
            span_ms = f" ({CONFIDENCE:.0%} interval {low}–{high} ms)"
        yield f"{milliseconds(mean_ns, half)} ms a {UNIT[choice.objective]} in the mean{span_ms}"
    elif len(first.records) > 1:
        yield "no traffic is given, so that every shape counts alike in a geometric mean: a factor, and no time"
    if len(choice.order) > 1:
        yield (
            f"regret is a runtime's time over the best one's, less one: expected, and at most, at {CONFIDENCE:.0%} for "
            f"all together; taken is the simplest with at most {choice.constraints.max_regret:.0%}, in the order "
            f"{', '.join(SIMPLICITY)}, fp32 first, then others"
        )
    yield from settling(choice)
    if choice.too_few and len(choice.order) > 1:
        at = _some([str(shape) for shape in choice.too_few])
        counts = "decide nothing" if choice.too_few_share > MOST_DISTURBED else "count for nothing"
        yield (
            f"{_reason_of_few(choice)} at {at}: fewer than {LEAST_ROUNDS} quiet rounds of two runtimes {counts} "
            f"({percent(choice.too_few_share)} of the weight)"
        )
    for one, ratio in choice.left_out:
        cost, ends = ratio.value - 1, ratio.interval
        known = f" (at most {share(ends.high - 1)}, {ratio.confidence:.0%})" if ends and ends.high > 1 else ""
        yield f"leaving out {one.label}, which is deprecated, costs {share(cost) if cost > 0 else 'nothing'}{known}"
    yield from _starts(choice, first)
    if first.batches:
        yield f"its best batches: {_some([f'{batch} at length {n}' for n, batch in sorted(first.batches.items())])}"
    same = "the same model" if first.verdict in SAME_MODEL else "not the same model any more, as was allowed"
    yield f"{same}: {first.verdict}{largest_error(first.worst_parity)}"
    yield from first.notes


def settling(choice: Choice) -> Iterator[str]:
    """What would settle an undecided choice; nothing for another."""
    if choice.is_decided or choice.leader is None:
        return
    runs, found = runs_of(choice), choice.settling
    if found is None:
        yield f"more rounds are not expected to show {choice.leader.label} within {MOST_REGRET:.0%} of the best"
        return
    rounds = [
        f"{count(number, 'round')} at {shape}" + (f" of run {runs.index(run) + 1}" if len(runs) > 1 else "")
        for run, shape, number in found.rounds
    ]
    named = _some(rounds, ", ", " ")
    if choice.too_few:
        yield f"at least {named} are lacking; stop other work on the machine first"
    else:
        about = f"about {_seconds(found.seconds)}, settle" + ("" if len(rounds) > 1 or found.rounds[0][2] > 1 else "s")
        yield f"{named}, {about} {choice.leader.label} within {MOST_REGRET:.0%}"


def settling_command(choice: Choice) -> str:
    """The command that takes the rounds that would settle a choice; "" if there is none.

    A run races for the latency of its own traffic, or of a file's, so there is none for another objective, nor if
    several runs lack rounds.
    """
    found, runs, traffic = choice.settling, runs_of(choice), choice.traffic
    is_its_own = not traffic.is_given or traffic.kept == getattr(runs[0].options, "served", ())
    if found is None or len(runs) > 1 or choice.objective != "latency" or not (is_its_own or traffic.path):
        return ""
    weighed_by = "" if is_its_own else f" --traffic {shlex.quote(traffic.path)}"
    most = next((word for word, limit in SETTLED_BY.items() if limit >= 2 * found.seconds), "1d")
    return f"{state.going_on(runs[0])} --until-decided {most}{weighed_by}"


def _seconds(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def share(regret: float) -> str:
    """A regret as a share: `1.2%`, `43%`, `?` if it is not known."""
    return "?" if math.isinf(regret) else f"{regret:.1%}" if regret < 0.1 else f"{regret:.0%}"


def _starts(choice: Choice, chosen: Weighed) -> Iterator[str]:
    """How long the start takes, and after how much work it has paid back against others of that machine."""
    if chosen.one_time_seconds is None:
        return
    first = "its first call"
    if chosen.has_static_shapes:
        shapes = len(chosen.demand.calls)
        first = "the first call of its one shape" if shapes == 1 else f"the first call of each of {shapes} shapes"
    others = [one for one in choice.order if one is not chosen and _is_on_its_machine(chosen, one)]
    timed = [one for one in others if one.one_time_seconds is not None and one not in choice.near]
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
    """What the runtimes that do not qualify fail, and by how much; one line for those that fail the same."""
    labels: dict[str, list[str]] = {}
    for one in choice.candidates:
        if one.failures:
            reasons = _some([failure.reason for failure in one.failures], "; ", "; ")
            labels.setdefault(reasons, []).append(one.label)
    return [f"{', '.join(found)}: {reasons}" for reasons, found in labels.items()]


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
    demand = next((c.demand for c in (choice.leader, *choice.candidates) if c is not None and c.demand.calls), None)
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
