"""Claims judged by made-up runs: every outcome of each, and the rules beneath them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.run.record import Run
from bench.statistics import Interval
from bench.study.cells import cells_of
from bench.study.claims import BY_HAND, LONGEST_TITLE, STUDY, Claim, claims
from bench.study.findings import CONFIRMED, NOT_TESTED, OUTCOMES, REFUTED, UNDECIDED, Finding, every, judged
from bench.study.series import crossover, exponents, series, times_faster
from bench.workloads.generate import Batch
from tests.bench.study_cases import (
    FORMATS,
    GIB,
    MIB,
    NOISY,
    forms,
    generation,
    memory,
    padded,
    record,
    sentences,
)

#: On a busy machine an example may take long, and that is no failure of what is tested.
unhurried = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
WINS, IMMATERIAL, WITHIN = "ONNX wins clearly", "CPU: format immaterial", "CPU: formats within 10 %"
UP_TO_28, LINEAR, NOT_LINEAR = "gives up to 28×", "CPU: latency linear in length", "CPU: latency not linear in length"
STEP, OOM, KEPT = "GPT-2 medium 1×1024: 67.66 us per step", "BERT 64×512: out of memory", "37,748,736 bytes of keys"


def claim(title: str) -> Claim:
    (found,) = [one for one in claims() if title in one.title]
    return found


def found_of(title: str, *runs: Run) -> Finding:
    return claim(title).judge(cells_of(runs))


# The rules.

INTERVALS = st.tuples(st.floats(0.01, 100), st.floats(0, 50)).map(lambda ends: Interval(ends[0], ends[0] + ends[1]))


@unhurried
@given(INTERVALS, st.floats(0.01, 100), st.floats(0, 50))
def test_an_outcome_is_of_the_whole_interval(interval: Interval, low: float, width: float) -> None:
    high = low + width
    found = judged(interval, {"inside": [low, high]})
    assert (found == CONFIRMED) == (low <= interval.low and interval.high <= high)
    assert (found == REFUTED) == (interval.high < low or interval.low > high)
    opposite = {CONFIRMED: REFUTED, REFUTED: CONFIRMED}.get(found, UNDECIDED)
    assert judged(interval, {"outside": [low, high]}) == opposite
    above = judged(interval, {"above": low})
    assert (above == CONFIRMED) == (interval.low > low)
    assert (above == REFUTED) == (interval.high <= low)
    assert judged(interval, {"about": low}) == judged(interval, {"inside": [low / 1.25, low * 1.25]})
    assert {judged(None, holds) for holds in ({"inside": [1, 2]}, {"above": 1}, {"about": 1})} == {UNDECIDED}


@unhurried
@given(st.lists(st.sampled_from(OUTCOMES[:3])))
def test_all_parts_must_hold(outcomes: list[str]) -> None:
    found = every(outcomes)
    assert (found == NOT_TESTED) == (not outcomes)
    assert (found == REFUTED) == (REFUTED in outcomes)
    assert (found == CONFIRMED) == (set(outcomes) == {CONFIRMED})


# All claims.


def test_every_claim_has_a_short_title_of_its_own_and_says_how_it_is_judged() -> None:
    assert len({one.title for one in claims()}) == len(claims()) == 47
    for one in claims():
        assert len(one.title) <= LONGEST_TITLE, one.title
        assert one.source in (STUDY, BY_HAND)
        assert one.device in ("cpu", "cuda", "any")
        assert one.rule.endswith(".") and one.text.endswith(".")
        assert one.needs.startswith("bench ")


def test_without_runs_nothing_is_judged_but_by_arithmetic() -> None:
    found = {one.title: one.judge(()) for one in claims()}
    refuted = [title for title, finding in found.items() if finding.outcome != NOT_TESTED]
    assert refuted == [
        "BERT 16×512: 25.20 ms", "BERT 32×512: 29.05 ms", "GPT 1×512: 25 us per step", "GPT 32×512: 29.54 ms",
    ]  # fmt: skip
    assert {found[title].outcome for title in refuted} == {REFUTED}
    assert "173% of that card's peak" in found["BERT 16×512: 25.20 ms"].evidence[0]
    assert "6590 us" in found["GPT 1×512: 25 us per step"].evidence[0]


@pytest.mark.parametrize(("here", "other"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_claim_of_a_gpu_is_never_judged_by_a_cpu_nor_the_other_way_round(here: str, other: str) -> None:
    times = {(name, batch): 10 for name in FORMATS for batch in (1, 8, 16, 32, 64)}
    cells = cells_of(
        [
            *(sentences(times, order, device=here) for order in ("unsorted", "sorted")),
            padded({("eager", batch, n): 10 * n for batch in (1, 64) for n in (8, 512)}, device=here),
            padded({("eager", 1, 512): 10}, model="gpt", device=here),
            *(memory(here, model) for model in ("gpt2-medium", "bert")),
        ]
    )
    assert any(one.judge(cells).outcome != NOT_TESTED for one in claims() if one.device == here)
    for one in claims():
        if one.device == other:
            assert one.judge(cells).outcome == one.judge(()).outcome, one.title


def cases() -> Iterator[tuple[str, str, list[Run]]]:
    """A claim, an outcome, and runs that it comes of."""
    for at_8, noise, wanted in (
        ((10, 9, 6), {}, CONFIRMED),
        ((10, 9, 8.9), {}, REFUTED),  # faster than TorchScript, and not clearly
        ((10, 9, 6), {"noise": NOISY, "is_interleaved": False}, UNDECIDED),
    ):
        yield WINS, wanted, [sentences(forms(1, 50, 45, 2) | forms(8, *at_8) | forms(32, 5, 5, 9), **noise)]
    yield WINS, NOT_TESTED, [sentences(forms(1, 50, 45, 20))]  # one batch is no range
    wins = forms(1, 50, 45, 20) | forms(8, 10, 9, 6)
    yield WINS, NOT_TESTED, [sentences(wins, model="bert-tiny")]
    for loss in ({"verdict": "broken"}, {"status": "oom"}, {"precision": "bf16"}, {"is_judged": False}):
        yield WINS, NOT_TESTED, [sentences(wins, **loss)]
    for title in (WITHIN, IMMATERIAL):
        for onnx, wanted in (((5.2,), CONFIRMED), ((4.0,), REFUTED), ((), NOT_TESTED)):
            yield title, wanted, [sentences(forms(64, 5, 5.1, *onnx) | forms(8, 9, 9, 2))]
    yield WITHIN, REFUTED, [sentences(forms(64, 5, 7))]  # without the third
    for ms, wanted in ((1.0, CONFIRMED), (0.4, REFUTED), (2.0, REFUTED)):
        times = {("eager", 1): 28.0} | forms(32, 3, 3, 3) | forms(64, 3, ms, 3)
        yield UP_TO_28, wanted, [sentences(times, device="cuda")]
    for device, name in (("cpu", "CPU"), ("cuda", "GPU")):
        for order, change, wanted in (
            ("unsorted", 1.2, CONFIRMED), ("unsorted", 1.0, REFUTED), ("unsorted", 1.5, REFUTED),
            ("unsorted", 1.3, UNDECIDED), ("sorted", 0.9, CONFIRMED), ("sorted", 1.1, REFUTED), ("sorted", 0.6, REFUTED),
        ):  # fmt: skip
            title, times = f"{name}: batch 16 to 64, {order}", {("eager", 16): 5.0, ("eager", 64): 5 * change}
            yield title, wanted, [sentences(times, order, device=device)]
            yield title, NOT_TESTED, [sentences({("eager", 16): 5}, order, device=device)]
            grid = {(name, batch, 32): ms * batch for (name, batch), ms in times.items()}
            yield title, NOT_TESTED, [padded(grid, device=device)]
    for exponent, linear, not_linear in (
        (1.0, CONFIRMED, REFUTED),
        (0.5, REFUTED, CONFIRMED),
        (1.5, REFUTED, CONFIRMED),
    ):
        run = padded({("onnx", b, n): 3 * n**exponent for b in (1, 4, 16, 64) for n in (8, 64, 512)})
        yield from ((LINEAR, linear, [run]), (NOT_LINEAR, not_linear, [run]))
    yield LINEAR, NOT_TESTED, [padded({("onnx", 64, n): n for n in (256, 512)})]  # a short span
    yield LINEAR, UNDECIDED, [padded({("onnx", 64, n): n**0.85 for n in (64, 512)}, noise=NOISY)]
    for cpu_ms, gpu_ms, wanted in (
        (50, 0.6, CONFIRMED), (20, 0.6, REFUTED), (50, 5, REFUTED), (50, None, NOT_TESTED), (150, None, REFUTED),
        (None, 0.1, REFUTED), (100, 0.6, UNDECIDED),
    ):  # fmt: skip
        runs = [sentences({("eager", 1): cpu_ms})] if cpu_ms else []
        yield "50 down to 0.6 ms", wanted, runs + ([sentences({("onnx", 64): gpu_ms}, device="cuda")] if gpu_ms else [])
    for ms, wanted in ((0.068, CONFIRMED), (9, REFUTED), (0.0846, UNDECIDED)):
        yield from [(STEP, wanted, [generation("gpt2-medium", ms)])] * (wanted != UNDECIDED)
        yield STEP, wanted, [padded({("eager", 1, 1): ms}, device="cuda", model="gpt2-medium")]
    for change in (
        {"backend": "onnx"}, {"decoding": "beam:4"}, {"new_tokens": 128}, {"batch": 2}, {"verdict": "broken"},
        {"model": "gpt"}, {"device": "cpu"}, {"way": "full"},
    ):  # fmt: skip
        yield "512 tokens", NOT_TESTED, [generation(**{"model": "gpt2", "step_ms": 1, "seconds": 5.41} | change)]
    card, lost = {"gpus": [{"name": "A card", "total_bytes": 8 * GIB}]}, {"device": "cuda", "status": "oom"}
    yield OOM, CONFIRMED, [padded({("eager:grad", 64, 512): 300}, **lost)]
    yield OOM, NOT_TESTED, [padded({("eager:grad", 64, 512): 300}, **lost, fingerprint=card)]
    yield OOM, NOT_TESTED, [padded({("eager", 64, 512): 300}, **peak(2))]
    yield OOM, REFUTED, [memory("cuda", "bert", 418 * MIB, stored=200 * MIB)]
    for parameters, wanted in ((124_000_000, CONFIRMED), (116_534_784, REFUTED), (130_000_000, UNDECIDED)):
        yield from (("GPT has 124 M", wanted, [memory(device, "gpt", 4 * parameters)]) for device in ("cpu", "cuda"))
    for width, wanted in ((64, CONFIRMED), (32, REFUTED), (None, NOT_TESTED)):
        noted = {} if width is None else {"keys_and_values": {"layers": 12, "heads": 12, "head_width": width}}
        yield KEPT, wanted, [memory("cpu", "gpt", notes=noted)]
    yield "2093 MB once loaded", NOT_TESTED, [memory("cuda", "gpt2-medium", process=None)]
    yield "more than its 355 M need", REFUTED, [memory("cuda", "gpt2-medium", process=1400 * MIB)]


def peak(size: int) -> dict[str, Any]:
    return {"memory": {"peak": {"peak_allocated_bytes": size * GIB}}, "device": "cuda"}


@pytest.mark.parametrize(("title", "wanted", "runs"), list(cases()))
def test_a_claims_outcome(title: str, wanted: str, runs: list[Run]) -> None:
    assert found_of(title, *runs).outcome == wanted


# What stands in the evidence.


def test_another_card_is_named_and_a_factor_is_also_told_against_the_cpu() -> None:
    title, times = "ONNX at batch 8 is 12×", {("eager", 1): 12.0, ("onnx", 8): 1.0}
    found = found_of(title, sentences(times, device="cuda"), sentences({("eager", 1): 50}))
    assert (found.outcome, found.note) == (CONFIRMED, "it was said of an NVIDIA T4; here NVIDIA H100 80GB HBM3")
    assert any(line.startswith("and 50× (") and line.endswith("on the CPU") for line in found.evidence)
    its_own = sentences(times, device="cuda", fingerprint={"gpus": [{"name": "Tesla T4"}]})
    assert found_of(title, its_own).note == ""


def test_pairs_of_a_ratio_are_told_and_disturbed_ones_decide_nothing() -> None:
    times = forms(1, 50, 45, 20) | forms(8, 10, 9, 6) | forms(32, 5, 5, 9)
    found = found_of(WINS, sentences(times, conditions={"other_cpu_seconds": 1.9}))
    assert (found.outcome, found.evidence[0]) == (
        UNDECIDED, "cpu, bert, unsorted sentences; some cells were disturbed"
    )  # fmt: skip
    assert found.evidence[1] == "batch 1: onnx is an unknown multiple of eager: not decided by these runs"
    found = found_of(WINS, sentences(times))
    assert (found.outcome, found.evidence[0]) == (CONFIRMED, "cpu, bert, unsorted sentences")
    assert [re.sub(r" \(.*?\)", "", line) for line in found.evidence[1:]] == [
        f"batch {batch}: onnx is {ratio}× {other}: confirmed"
        for batch, ratio, other in (
            (1, 2.5, "eager"),
            (1, 2.25, "torchscript"),
            (8, 1.67, "eager"),
            (8, 1.5, "torchscript"),
        )
    ]
    best = {("eager", 1): 28.0} | forms(32, 3, 3, 3) | forms(64, 3, 1, 3)
    assert "torchscript at batch 64" in found_of(UP_TO_28, sentences(best, device="cuda")).evidence[1]


def test_the_grid_stands_in_for_sentences_at_the_length_nearest_to_theirs() -> None:
    speeds = {"eager": 9, "torchscript": 9, "onnx": 4}
    grid = padded({(name, b, n): ms for n in (8, 32, 512) for b in (1, 8) for name, ms in speeds.items()})
    found = found_of(WINS, grid)
    assert (found.outcome, found.evidence[0]) == (CONFIRMED, "cpu, bert, length 32")
    assert found_of(WINS, grid, sentences(forms(1, 9, 9, 8.9) | forms(8, 9, 9, 8.9))).outcome == REFUTED


def test_growth_is_told_at_the_largest_batch() -> None:
    run = padded({("onnx", b, n): 3 * n**1.4 for b in (1, 4, 16, 64) for n in (8, 64, 512)})
    assert found_of(LINEAR, run).evidence[0] == "cpu, bert, batch 64, lengths 8 to 512"
    value, interval = exponents(series(cells_of([run]), "length")[0], ["onnx"], 4)["onnx"]
    assert math.isclose(value, 1.4, abs_tol=1e-6)
    assert interval is not None and interval.low <= value <= interval.high


@pytest.mark.parametrize(("ms", "wanted"), [(10.6, CONFIRMED), (4.0, REFUTED), (13.3, UNDECIDED)])
def test_a_time_by_hand_is_held_against_a_gpu(ms: float, wanted: str) -> None:
    found = found_of("BERT 1×512: 10.63 ms", padded({("eager", 1, 512): ms}, device="cuda", times={"naive": 0.9}))
    assert (found.outcome, "RTX 3090" in found.note) == (wanted, True)
    assert "a clock that never waits says 0.9 ms" in found.evidence[0]
    impossible = found_of("BERT 32×512: 29.05 ms", padded({("eager", 32, 512): 29.05}, device="cuda"))
    assert (impossible.outcome, impossible.evidence[1][:14]) == (REFUTED, "here 29.1 ms (")
    spread = found_of(STEP, padded({("eager", 1, 1024): 69.2}, device="cuda", model="gpt2-medium"))
    assert "makes 67.6 us" in spread.evidence[0] and spread.evidence[0].endswith("which is no step")


@pytest.mark.parametrize(("seconds", "wanted"), [(5.41, CONFIRMED), (1.0, REFUTED), (6.76, UNDECIDED)])
def test_512_tokens_are_timed_with_eager_and_the_others_stand_beside(seconds: float, wanted: str) -> None:
    other = record("onnx", Batch(1), 300, times={"decode": 1}, figures={"way": "cache"})
    found = found_of("512 tokens in 5.41 s", generation("gpt2", 1, seconds, others=(other,)))
    assert found.outcome == wanted
    assert [line.partition(":")[0] for line in found.evidence] == ["eager", "onnx"]


def test_memory_is_told_in_its_parts() -> None:
    plain = padded({("eager", 64, 512): 300}, **peak(2))
    grad = {size: padded({("eager:grad", 64, 512): 300}, **peak(size)) for size in (20, 28)}
    assert [found_of(OOM, plain, grad[size]).outcome for size in (28, 20)] == [CONFIRMED, REFUTED]
    assert "without gradients 2.00 GiB" in found_of(OOM, plain, grad[28]).evidence
    of_one = found_of(OOM, memory("cuda", "bert", 418 * MIB, stored=435 * MIB))
    assert (of_one.outcome, of_one.evidence[1]) == (CONFIRMED, "autograd keeps 435 MiB a sequence")
    medium, small = memory("cuda", "gpt2-medium"), memory("cuda", "gpt2", 475 * MIB, 600 * MIB, 90 * MIB)
    loaded = found_of("2093 MB once loaded", medium, small)
    assert (loaded.outcome, loaded.evidence) == (
        CONFIRMED,
        (
            "here the process holds 2093 MiB",
            "parameters and buffers are 1353 MiB of it",
            "the runtime's own context and kernels are 713 MiB, whatever the model",
        ),
    )
    assert found_of("1255 MB once loaded", medium, small).outcome == REFUTED
    more = found_of("more than its 355 M need", medium, small)
    assert (more.outcome, more.evidence[1]) == (CONFIRMED, "beside parameters and buffers the process holds 740 MiB")
    assert more.evidence[-1] == "with gpt2 it holds 125 MiB beside"


# Pairs and crossovers.


def test_turns_pair_rounds_and_runs_apart_do_not() -> None:
    drifting, times = (0.5, 0.75, 1.0, 1.5, 2.0, 0.6, 1.2, 0.9), {("eager", 8): 20.0, ("onnx", 8): 10.0}
    slow, fast, _, elsewhere = cells_of([sentences(times, noise=drifting) for _ in range(2)])
    paired, apart = times_faster(slow, fast), times_faster(slow, elsewhere)
    assert paired is not None and paired.interval == Interval(pytest.approx(2), pytest.approx(2))
    assert apart is not None and apart.interval is not None and apart.interval.low < 1 < apart.interval.high
    (single,) = cells_of([sentences({("onnx", 8): 10.0}, noise=(1.0,))])
    assert times_faster(slow, single) is None


@pytest.mark.parametrize(
    ("onnx_ms", "batch"),
    [((5, 5, 9, 9.1), 16), ((9, 5, 9, 9), 16), ((9, 9, 9, 5), None), ((9, 9, 9, 9), 1), ((5, 5, 5, 9), 64)],
)
def test_the_crossover_is_where_runtimes_stay_together(onnx_ms: tuple[float, ...], batch: int | None) -> None:
    times = [forms(size, 9, 9, onnx) for size, onnx in zip((1, 8, 16, 64), onnx_ms, strict=True)]
    found = crossover(series(cells_of([sentences({key: ms for one in times for key, ms in one.items()})]), "batch")[0])
    assert found is not None and found.batch == batch


def test_a_crossover_needs_two_batches_of_two_runtimes_and_intervals() -> None:
    first, second = sentences(forms(1, 9, 9, 9)), sentences({(b, n): 9 for b in FORMATS for n in (1, 8)}, noise=NOISY)
    second.records = [replace(one, is_interleaved=False) for one in second.records]
    one, other = series(cells_of([first, second]), "batch")
    assert (one.name, other.name) == ("cpu, bert, unsorted sentences, file 1", "cpu, bert, unsorted sentences, file 2")
    assert crossover(one) is None
    found = crossover(other)
    assert found is not None and found.batch is None and set(found.outcomes.values()) == {UNDECIDED}
