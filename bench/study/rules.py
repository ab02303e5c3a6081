"""Rules for what the study of 2021 found: CamemBERT base as PyTorch, TorchScript and ONNX on CPU, T4 and V100."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bench.study.figures import CORPUS, CPU, CUDA, PRECISION, Figure, Figures, times_faster
from bench.study.findings import (
    CONFIRMED,
    NOT_TESTED,
    REFUTED,
    Finding,
    about,
    above,
    every,
    factor,
    inside,
    not_tested,
    outside,
    shown,
    span,
)
from bench.study.series import TOGETHER, Series, deciding, growth, over_lengths

FORMATS = ("eager", "torchscript", "onnx")
#: Names of models with the architecture of the study's; figures of others judge none of its claims.
MODELS = ("bert", "bert-base-uncased", "bert-base-cased", "camembert-base", "almanach/camembert-base")
#: Time ~ length^p counts as linear with p within these.
LINEAR = (0.8, 1.2)
#: The longest length over the shortest, below which an exponent says little.
LEAST_SPAN = 4.0
LARGE_BATCH = 16


def _setting(series: Series, cells: list[Figure]) -> str:
    disturbed = "; some cells were disturbed" if any(cell.is_disturbed for cell in cells) else ""
    return f"{series.name}{disturbed}"


def _range(slowest_ms: float, fastest_ms: float, factor: float) -> Callable[[Figures], Finding]:
    """Over all settings a sample takes from `slowest_ms` down to `fastest_ms`, each within `factor`."""

    def weigh(figures: Figures) -> Finding:
        cells = [
            cell
            for cell in figures.cells
            if cell.kind == CORPUS and cell.is_usable and cell.precision == PRECISION
            if cell.model in MODELS and cell.backend in FORMATS
        ]
        if not cells:
            return not_tested()
        slow, fast = max(cells, key=lambda cell: cell.ms_per_sample), min(cells, key=lambda cell: cell.ms_per_sample)
        evidence = tuple(
            f"{word}: {shown(cell.ms_per_sample)} ms{span(cell.sample_interval_ms)}, {cell.backend} at batch "
            f"{cell.batch} {cell.order}, {cell.source.hardware}"
            for word, cell in (("slowest", slow), ("fastest", fast))
        )
        top = inside(slow.sample_interval_ms, slowest_ms / factor, slowest_ms * factor)
        bottom = inside(fast.sample_interval_ms, fastest_ms / factor, fastest_ms * factor)
        # Further settings only widen a range: what lies beyond it now will do so then.
        is_beyond = (
            above(slow.sample_interval_ms, slowest_ms * factor) == CONFIRMED
            or above(fast.sample_interval_ms, fastest_ms / factor) == REFUTED
        )
        if is_beyond:
            return Finding(REFUTED, evidence)
        if {cell.device for cell in cells} != {CPU, CUDA}:
            return not_tested(*evidence, "the range was over a CPU and GPUs, and only one of them was measured here")
        return Finding(every((top, bottom)), evidence)

    return weigh


def _wins(device: str, winner: str, below: int) -> Callable[[Figures], Finding]:
    """`winner` is clearly faster than the other formats at every batch below `below`."""

    def weigh(figures: Figures) -> Finding:
        series = deciding(figures, device, MODELS)
        if series is None:
            return not_tested()
        outcomes, evidence, batches, cells = [], [], set(), []
        for batch in (batch for batch in series.sizes if batch < below):
            here = series.at(batch)
            for other in (name for name in FORMATS if name != winner and name in here and winner in here):
                ratio = times_faster(here[other], here[winner])
                outcomes.append(above(ratio.interval if ratio else None, TOGETHER))
                evidence.append(f"batch {batch}: {winner} is {factor(ratio)} {other}: {outcomes[-1]}")
                cells += [here[other], here[winner]]
                batches.add(batch)
        if len(batches) < 2:
            return not_tested(*evidence, f"fewer than two batches below {below} have {winner} and another format")
        return Finding(every(outcomes), (_setting(series, cells), *evidence))

    return weigh


def _together(device: str, low: int, high: int | None = None) -> Callable[[Figures], Finding]:
    """The three formats are within 10 % of each other at every batch from `low` to `high`."""

    def weigh(figures: Figures) -> Finding:
        series = deciding(figures, device, MODELS)
        if series is None:
            return not_tested()
        outcomes: list[str] = []
        evidence: list[str] = []
        cells: list[Figure] = []
        is_whole = False
        for batch in (batch for batch in series.sizes if batch >= low and (high is None or batch <= high)):
            here = {name: cell for name, cell in series.at(batch).items() if name in FORMATS}
            if len(here) < 2:
                continue
            is_whole = is_whole or len(here) == len(FORMATS)
            outcomes.append(series.together(batch, FORMATS))
            cells += here.values()
            times = (f"{name} {shown(cell.ms_per_sample)}" for name, cell in here.items())
            evidence.append(f"batch {batch}, ms a sample: {', '.join(times)}")
            for slow, fast, ratio in series.ratios(batch, FORMATS):
                pair = inside(ratio.interval if ratio else None, 1 / TOGETHER, TOGETHER)
                evidence.append(f"batch {batch}: {fast} is {factor(ratio)} {slow}: {pair}")
        outcome = every(outcomes)
        if outcome == NOT_TESTED or (outcome != REFUTED and not is_whole):
            return not_tested(*evidence, "no such batch has all three formats")
        return Finding(outcome, (_setting(series, cells), *evidence))

    return weigh


def _best_against_one(low: int, high: int, backends: Sequence[str], times: float) -> Callable[[Figures], Finding]:
    """The fastest of `backends` at batches `low` to `high` is about `times` PyTorch at batch 1, on a GPU."""

    def weigh(figures: Figures) -> Finding:
        series = deciding(figures, CUDA, MODELS)
        if series is None:
            return not_tested()
        one = series.cells.get(("eager", 1))
        candidates = [
            cell for (backend, batch), cell in series.cells.items() if backend in backends and low <= batch <= high
        ]
        if one is None or not candidates:
            return not_tested(f"{series.name}: no eager at batch 1, or no {' or '.join(backends)} at batch {low}")
        best = min(candidates, key=lambda cell: cell.ms_per_sample)
        ratio = times_faster(one, best)
        evidence = [f"{best.backend} at batch {best.batch} is {factor(ratio)} eager at batch 1"]
        on_cpu = deciding(figures, CPU, MODELS)
        if on_cpu is not None and on_cpu.setting == series.setting and ("eager", 1) in on_cpu.cells:
            evidence.append(f"and {factor(times_faster(on_cpu.cells['eager', 1], best))} eager at batch 1 on the CPU")
        outcome = about(ratio.interval if ratio else None, times)
        return Finding(outcome, (_setting(series, [one, best]), *evidence))

    return weigh


def _change(device: str, order: str, low: float, high: float) -> Callable[[Figures], Finding]:
    """Time a sample at batch 64 over that at batch 16 lies within `low` and `high`, for every format."""

    def weigh(figures: Figures) -> Finding:
        series = deciding(figures, device, MODELS, order)
        if series is None or not series.setting.endswith("sentences"):
            return not_tested()
        outcomes, evidence, cells = [], [], []
        for backend in (name for name in FORMATS if name in series.backends):
            small, large = series.cells.get((backend, 16)), series.cells.get((backend, 64))
            if small is None or large is None:
                continue
            ratio = times_faster(large, small)
            outcomes.append(inside(ratio.interval if ratio else None, low, high))
            evidence.append(f"{backend}: time a sample at batch 64 is {factor(ratio)} that at 16: {outcomes[-1]}")
            cells += [small, large]
        if not outcomes:
            return not_tested(f"{series.name}: no format has batches 16 and 64")
        return Finding(every(outcomes), (_setting(series, cells), *evidence))

    return weigh


def _linear(device: str, is_large: bool) -> Callable[[Figures], Finding]:
    """Time grows about linearly with length at the largest batch, or does not at batch 1, for every format."""

    def weigh(figures: Figures) -> Finding:
        every_batch = over_lengths(figures, device, MODELS)
        batches = {id(one): one.any_cell.batch for one in every_batch}
        fitting = [
            one for one in every_batch if (batches[id(one)] >= LARGE_BATCH if is_large else batches[id(one)] == 1)
        ]
        found = [grown for grown in (growth(one, LEAST_SPAN) for one in fitting) if grown is not None]
        found = [grown for grown in found if set(grown.exponents) & set(FORMATS)]
        if not found:
            return not_tested()
        grown = max(
            found, key=lambda one: (one.series.any_cell.batch, len(one.series.cells), one.series.source.started)
        )
        judge = inside if is_large else outside
        formats = [name for name in FORMATS if name in grown.exponents]
        outcomes = {name: judge(grown.exponents[name][1], *LINEAR) for name in formats}
        lengths = f"lengths {grown.series.sizes[0]} to {grown.series.sizes[-1]}"
        evidence = (
            f"{name}: time ~ length^{grown.exponents[name][0]:.2f}{span(grown.exponents[name][1])}: {outcome}"
            for name, outcome in outcomes.items()
        )
        cells = [cell for (name, _), cell in grown.series.cells.items() if name in formats]
        return Finding(every(outcomes.values()), (f"{_setting(grown.series, cells)}, {lengths}", *evidence))

    return weigh


RULES: Mapping[str, Callable[..., Callable[[Figures], Finding]]] = {
    "range": _range,
    "wins": _wins,
    "together": _together,
    "best_against_one": _best_against_one,
    "change": _change,
    "linear": _linear,
}
