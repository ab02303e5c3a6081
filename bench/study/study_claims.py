"""What the study of 2021 found, claim by claim: CamemBERT base as PyTorch, TorchScript and ONNX on CPU, T4 and V100."""

from __future__ import annotations

from collections.abc import Callable

from bench.study.claims import STUDY, Claim, factor, shown, span
from bench.study.figures import CORPUS, CPU, CUDA, PRECISION, Figure, Figures, times_faster
from bench.study.findings import (
    ABOUT,
    CONFIRMED,
    NOT_TESTED,
    REFUTED,
    Finding,
    about,
    above,
    every,
    inside,
    not_tested,
    outside,
)
from bench.study.series import STAND_IN_LENGTH, TOGETHER, Series, deciding, growth, over_lengths

FORMATS = ("eager", "torchscript", "onnx")
#: Names of models with the architecture of the study's; figures of others judge none of its claims.
MODELS = ("bert", "bert-base-uncased", "bert-base-cased", "camembert-base", "almanach/camembert-base")
DEVICES = {CPU: "CPU", CUDA: "GPU"}
#: Time ~ length^p counts as linear with p within these.
LINEAR = (0.8, 1.2)
#: The longest length over the shortest, below which an exponent says little.
LEAST_SPAN = 4.0
LARGE_BATCH = 16
SLOWEST_MS, FASTEST_MS, OF_THE_RANGE = 50.0, 0.6, 2.0
SETTING = (
    f"Judged on sentences in their own order, or, where no file has them, on padded batches of the length nearest to "
    f"{STAND_IN_LENGTH}"
)


def _setting(series: Series, cells: list[Figure]) -> str:
    disturbed = "; some cells were disturbed" if any(cell.is_tainted for cell in cells) else ""
    return f"{series.name}{disturbed}"


def _range(figures: Figures) -> Finding:
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
        f"{word}: {shown(cell.ms_per_sample)} ms{span(cell.sample_interval_ms)}, {cell.backend} at batch {cell.batch} "
        f"{cell.order}, {cell.source.hardware}"
        for word, cell in (("slowest", slow), ("fastest", fast))
    )
    top = inside(slow.sample_interval_ms, SLOWEST_MS / OF_THE_RANGE, SLOWEST_MS * OF_THE_RANGE)
    bottom = inside(fast.sample_interval_ms, FASTEST_MS / OF_THE_RANGE, FASTEST_MS * OF_THE_RANGE)
    # Further settings only widen a range: what lies beyond it now will do so then.
    beyond = (
        above(slow.sample_interval_ms, SLOWEST_MS * OF_THE_RANGE) == CONFIRMED
        or above(fast.sample_interval_ms, FASTEST_MS / OF_THE_RANGE) == REFUTED
    )
    if beyond:
        return Finding(REFUTED, evidence)
    if {cell.device for cell in cells} != {CPU, CUDA}:
        return not_tested(*evidence, "the range was over a CPU and GPUs, and only one of them was measured here")
    return Finding(every((top, bottom)), evidence)


def _onnx_wins(figures: Figures) -> Finding:
    series = deciding(figures, CPU, MODELS)
    if series is None:
        return not_tested()
    outcomes, evidence, batches, cells = [], [], set(), []
    for batch in (batch for batch in series.sizes if batch < 32):
        here = series.at(batch)
        if "onnx" not in here:
            continue
        for other in (name for name in FORMATS if name != "onnx" and name in here):
            ratio = times_faster(here[other], here["onnx"])
            outcomes.append(above(ratio.interval if ratio else None, TOGETHER))
            evidence.append(f"batch {batch}: onnx is {factor(ratio)} {other}: {outcomes[-1]}")
            cells += [here[other], here["onnx"]]
            batches.add(batch)
    if len(batches) < 2:
        return not_tested(*evidence, "fewer than two batches below 32 have onnx and another format")
    return Finding(every(outcomes), (_setting(series, cells), *evidence))


def _together(device: str, low: int, high: int | None) -> Callable[[Figures], Finding]:
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


def _best_against_one(low: int, high: int, backends: tuple[str, ...], times: float) -> Callable[[Figures], Finding]:
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


def _needs(device: str, command: str = "corpus --model bert") -> str:
    return f"bench {command} --device {device}"


_WITHIN = f"the interval of every ratio within 1/{TOGETHER:g} and {TOGETHER:g}; refuted where one lies wholly outside."
_ABOUT = f"of the ratio of medians; confirmed within a factor of {ABOUT:g} of it, refuted wholly outside."

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "50 down to 0.6 ms a sample, all settings",
        "Over all settings a sample takes from 50 down to 0.6 ms.",
        STUDY,
        "any",
        f"The slowest and the fastest format, batch and order on a CPU and a GPU lie within a factor of "
        f"{OF_THE_RANGE:g} of these. Refuted by one device alone where it lies beyond them, since further settings "
        "only widen a range.",
        f"{_needs(CPU)}; {_needs(CUDA)}",
        _range,
    ),
    Claim(
        "CPU: ONNX wins clearly below batch 32",
        "On the CPU ONNX wins clearly below batch 32.",
        STUDY,
        CPU,
        f"{SETTING}: at every batch below 32 ONNX is over {TOGETHER:g} times faster than PyTorch and TorchScript, "
        "by the whole interval; refuted where one interval lies wholly below. Two batches at least.",
        _needs(CPU),
        _onnx_wins,
    ),
    Claim(
        "CPU: format immaterial from batch 32 up",
        "On the CPU the format is immaterial from batch 32 up.",
        STUDY,
        CPU,
        f"{SETTING}: at every batch from 32 up, {_WITHIN}",
        _needs(CPU),
        _together(CPU, 32, None),
    ),
    Claim(
        "GPU: ONNX at batch 8 is 12× PyTorch at 1",
        "On the T4 ONNX at batch 8 is about 12 times PyTorch at batch 1.",
        STUDY,
        CUDA,
        f"{SETTING}: time a sample of eager at batch 1 over that of onnx at batch 8, by the interval {_ABOUT}",
        _needs(CUDA),
        _best_against_one(8, 8, ("onnx",), 12),
        "T4",
    ),
    Claim(
        "GPU: batch 32 to 64 gives up to 28×",
        "On the V100 batch 32 to 64 gives up to 28 times.",
        STUDY,
        CUDA,
        f"{SETTING}: time a sample of eager at batch 1 over that of the fastest format at batches 32 to 64, by the "
        f"interval {_ABOUT}",
        _needs(CUDA),
        _best_against_one(32, 64, FORMATS, 28),
        "V100",
    ),
    *(
        Claim(
            f"{name}: formats within 10 % at batch 64",
            f"At batch 64 the three formats are within 10 % of each other ({name}).",
            STUDY,
            device,
            f"{SETTING}: {_WITHIN}",
            _needs(device),
            _together(device, 64, 64),
            "V100" if device == CUDA else "",
        )
        for device, name in DEVICES.items()
    ),
    *(
        Claim(
            f"{name}: batch 16 to 64, {order} {result}",
            f"From batch 16 to 64 {order} text gets {result} ({name}).",
            STUDY,
            device,
            f"Time a sample at batch 64 over that at batch 16, {order} sentences: for every format the interval of the "
            f"ratio of medians within {low:g} and {high:g}, ten points about the claim; refuted where one lies wholly "
            "outside.",
            _needs(device),
            _change(device, order, low, high),
        )
        for device, name in DEVICES.items()
        for order, result, low, high in (("unsorted", "20 % slower", 1.1, 1.3), ("sorted", "10 % faster", 0.8, 1.0))
    ),
    *(
        Claim(
            f"{name}: latency {'' if is_large else 'not '}linear in length, {batch}",
            f"Latency is {'about' if is_large else 'not'} linear in length "
            f"{'at large batch' if is_large else 'for single samples'} ({name}).",
            STUDY,
            device,
            f"p of time ~ length^p between the shortest and the longest padded length, {LEAST_SPAN:g} times apart at "
            f"least, at {'the largest batch from ' + str(LARGE_BATCH) + ' up' if is_large else 'batch 1'}: for every "
            f"format its interval {'within' if is_large else 'outside'} {LINEAR[0]:g} and {LINEAR[1]:g}; refuted where "
            f"one lies wholly {'outside' if is_large else 'within'}.",
            _needs(device, "compare --preset study"),
            _linear(device, is_large),
        )
        for device, name in DEVICES.items()
        for is_large, batch in ((True, "large batch"), (False, "batch 1"))
    ),
)
