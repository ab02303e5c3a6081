"""Claims judged by made-up figures: every outcome of each, and the rules beneath them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.statistics import Interval
from bench.study.claims import BY_HAND, LONGEST_TITLE, STUDY, Claim, claims
from bench.study.figures import CORPUS, SHAPES, Cached, Figure, Figures, Generation, Held, Source, Stored, times_faster
from bench.study.findings import (
    CONFIRMED,
    NOT_TESTED,
    OUTCOMES,
    REFUTED,
    UNDECIDED,
    Finding,
    about,
    above,
    every,
    inside,
    outside,
)
from bench.study.series import crossover, growth, over_batches, over_lengths

GIB, MIB = 2**30, 2**20
CLAIMS = claims()
#: On a busy machine an example may take long, and that is no failure of what is tested.
unhurried = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
STEADY, NOISY = (0.998, 0.999, 1.0, 1.001, 1.002), (0.7, 0.85, 1.0, 1.15, 1.4)


def source(device: str = "cpu", model: str = "bert", **values: Any) -> Source:
    gpus = [{"name": "NVIDIA H100 80GB HBM3", "total_bytes": 80 * GIB}] if device == "cuda" else []
    fields: dict[str, Any] = {
        "path": f"{device}.jsonl", "writer": "bench corpus", "command": "bench corpus", "started": "2026-01-01",
        "model": model, "device": device, "threads": 2, "fingerprint": {"cpu": "A CPU", "gpus": gpus}, "is_complete": True,
    }  # fmt: skip
    return Source(**(fields | values))


def rounds(ms: float, noise: tuple[float, ...] = STEADY) -> tuple[tuple[float, ...], ...]:
    return tuple((ms * factor,) for factor in noise)


def sentences(
    backend: str, batch: int, ms: float, order: str = "unsorted", device: str = "cpu",
    noise: tuple[float, ...] = STEADY, **values: Any,
) -> Figure:  # fmt: skip
    """A cell of a corpus run: `ms` a sentence."""
    fields: dict[str, Any] = {
        "source": source(device), "kind": CORPUS, "model": "bert", "backend": backend, "precision": "fp32", "batch": batch,
        "length": None, "order": order, "status": "ok", "rounds_ms": rounds(ms, noise),
    }  # fmt: skip
    return Figure(**(fields | values))


def padded(backend: str, batch: int, length: int, ms: float, device: str = "cpu", **values: Any) -> Figure:
    """A cell of a grid: `ms` a call."""
    noise = values.pop("noise", STEADY)
    cell = sentences(backend, batch, ms, device=device, noise=noise, kind=SHAPES, length=length, order=None)
    return replace(cell, **values)


def figures(*cells: Figure, **values: Any) -> Figures:
    sources = [cell.source for cell in cells]
    for group in values.values():
        sources += [one.source for one in group if hasattr(one, "source")]
    return Figures(tuple(sources), tuple(cells), **values)


def claim(title: str) -> Claim:
    found = [one for one in CLAIMS if title in one.title]
    assert len(found) == 1, [one.title for one in found]
    return found[0]


def judged(title: str, *cells: Figure, **values: Any) -> Finding:
    return claim(title).judge(figures(*cells, **values))


# The rules.

INTERVALS = st.tuples(st.floats(0.01, 100), st.floats(0, 50)).map(lambda ends: Interval(ends[0], ends[0] + ends[1]))


@unhurried
@given(INTERVALS, st.floats(0.01, 100), st.floats(0, 50))
def test_an_outcome_is_of_the_whole_interval(interval: Interval, low: float, width: float) -> None:
    high = low + width
    found = inside(interval, low, high)
    ends_within = [low <= end <= high for end in (interval.low, interval.high)]
    assert (found == CONFIRMED) == all(ends_within)
    assert (found == REFUTED) == (interval.high < low or interval.low > high)
    assert outside(interval, low, high) == {CONFIRMED: REFUTED, REFUTED: CONFIRMED}.get(found, UNDECIDED)


@unhurried
@given(INTERVALS, st.floats(0.01, 100))
def test_above_means_all_of_it(interval: Interval, limit: float) -> None:
    found = above(interval, limit)
    assert (found == CONFIRMED) == (interval.low > limit)
    assert (found == REFUTED) == (interval.high <= limit)


@unhurried
@given(INTERVALS, st.floats(0.01, 100), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_narrower_interval_never_overturns_an_outcome(
    interval: Interval, value: float, one: float, other: float
) -> None:
    ends = sorted(interval.low + share * (interval.high - interval.low) for share in (one, other))
    before, after = (
        about(interval, value),
        about(Interval(max(ends[0], interval.low), min(ends[1], interval.high)), value),
    )
    assert after == before or before == UNDECIDED


def test_no_interval_decides_nothing() -> None:
    assert {inside(None, 1, 2), outside(None, 1, 2), above(None, 1), about(None, 1)} == {UNDECIDED}


@unhurried
@given(st.lists(st.sampled_from(OUTCOMES)))
def test_all_parts_must_hold(outcomes: list[str]) -> None:
    found = every(outcomes)
    tested = [outcome for outcome in outcomes if outcome != NOT_TESTED]
    assert found == (NOT_TESTED if not tested else found)
    assert (found == REFUTED) == (REFUTED in tested)
    assert (found == CONFIRMED) == (bool(tested) and set(tested) == {CONFIRMED})


# All claims.


def test_every_claim_has_a_short_title_of_its_own_and_says_how_it_is_judged() -> None:
    assert len({one.title for one in CLAIMS}) == len(CLAIMS) > 40
    for one in CLAIMS:
        assert len(one.title) <= LONGEST_TITLE, one.title
        assert one.source in (STUDY, BY_HAND)
        assert one.device in ("cpu", "cuda", "any")
        assert one.rule.endswith(".") and one.text.endswith(".")
        assert one.needs.startswith("bench ")


def test_without_figures_nothing_is_judged_but_by_arithmetic() -> None:
    found = {one.title: one.judge(Figures()) for one in CLAIMS}
    refuted = [title for title, finding in found.items() if finding.outcome != NOT_TESTED]
    assert refuted == [
        "BERT 16×512: 25.20 ms", "BERT 32×512: 29.05 ms", "GPT 1×512: 25 us per step", "GPT 32×512: 29.54 ms",
    ]  # fmt: skip
    assert {found[title].outcome for title in refuted} == {REFUTED}
    assert "173% of that card's peak" in found["BERT 16×512: 25.20 ms"].evidence[0]
    assert "6590 us" in found["GPT 1×512: 25 us per step"].evidence[0]


ALL_KINDS = [
    *(sentences(backend, batch, 10, order) for backend in ("eager", "torchscript", "onnx")
      for batch in (1, 8, 16, 32, 64) for order in ("unsorted", "sorted")),
    *(padded("eager", batch, length, 10 * length) for batch in (1, 64) for length in (8, 512)),
    padded("eager", 1, 512, 10, model="gpt"),
]  # fmt: skip


def test_a_claim_of_a_gpu_is_never_judged_by_a_cpu_nor_the_other_way_round() -> None:
    for here, other in (("cpu", "cuda"), ("cuda", "cpu")):
        cells = [replace(cell, source=source(here, cell.model)) for cell in ALL_KINDS]
        held = (Held(source(here), "gpt2-medium", "eager", "fp32", 1353 * MIB, 2093 * MIB, 713 * MIB),)
        stored = (Stored(source(here), "bert", 512, 435 * MIB),)
        everything = figures(*cells, held=held, stored=stored)
        for one in CLAIMS:
            if one.device == other:
                assert one.judge(everything).outcome == one.judge(Figures()).outcome, one.title
        assert any(one.judge(everything).outcome != NOT_TESTED for one in CLAIMS if one.device == here)


def test_another_card_is_named() -> None:
    cells = [sentences("eager", 1, 12, device="cuda"), sentences("onnx", 8, 1, device="cuda")]
    found = judged("ONNX at batch 8 is 12×", *cells)
    assert (found.outcome, found.note) == (CONFIRMED, "it was said of an NVIDIA T4; here NVIDIA H100 80GB HBM3")
    its_own = [replace(cell, source=source("cuda", fingerprint={"gpus": [{"name": "Tesla T4"}]})) for cell in cells]
    assert judged("ONNX at batch 8 is 12×", *its_own).note == ""


# The study.


def forms(batch: int, eager: float, torchscript: float, onnx: float, **values: Any) -> list[Figure]:
    times = {"eager": eager, "torchscript": torchscript, "onnx": onnx}
    return [sentences(backend, batch, ms, **values) for backend, ms in times.items()]


@pytest.mark.parametrize(
    ("at_8", "noise", "outcome"),
    [
        ((10, 9, 6), STEADY, CONFIRMED),
        ((10, 9, 8.9), STEADY, REFUTED),  # faster than TorchScript, and not clearly
        ((10, 9, 6), NOISY, UNDECIDED),
    ],
)
def test_onnx_must_win_against_both_at_every_small_batch(at_8, noise, outcome) -> None:
    cells = [*forms(1, 50, 45, 20), *forms(8, *at_8)]
    cells = [replace(cell, is_interleaved=False) for cell in cells] if noise is NOISY else cells
    cells = [replace(cell, rounds_ms=rounds(cell.ms, noise)) if cell.batch == 8 else cell for cell in cells]
    found = judged("ONNX wins clearly below batch 32", *cells, *forms(32, 5, 5, 9))
    assert found.outcome == outcome
    assert any("batch 8: onnx is" in line and line.endswith(outcome) for line in found.evidence)
    assert not any("batch 32" in line for line in found.evidence)


def test_one_small_batch_is_no_range() -> None:
    assert judged("ONNX wins clearly below batch 32", *forms(1, 50, 45, 20)).outcome == NOT_TESTED


@pytest.mark.parametrize(
    ("onnx", "outcome"),
    [(5.2, CONFIRMED), (4.0, REFUTED), (None, NOT_TESTED)],
    ids=["together", "apart", "two formats"],
)
def test_formats_are_together_when_every_pair_is(onnx, outcome) -> None:
    cells = [cell for cell in forms(64, 5, 5.1, onnx or 1) if onnx or cell.backend != "onnx"]
    for title in ("CPU: formats within 10 % at batch 64", "format immaterial from batch 32 up"):
        assert judged(title, *cells, *forms(8, 9, 9, 2)).outcome == outcome


def test_two_formats_apart_refute_without_the_third() -> None:
    assert judged("CPU: formats within 10 %", *forms(64, 5, 7, 5)[:2]).outcome == REFUTED


@pytest.mark.parametrize(("ms", "outcome"), [(1.0, CONFIRMED), (0.4, REFUTED), (2.0, REFUTED)])
def test_up_to_28_times_is_that_of_the_best_format(ms, outcome) -> None:
    cells = [sentences("eager", 1, 28, device="cuda"), *forms(32, 3, 3, 3, device="cuda")]
    cells += [replace(cell, source=cells[0].source) for cell in forms(64, 3, ms, 3, device="cuda")]
    found = judged("batch 32 to 64 gives up to 28×", *cells)
    assert found.outcome == outcome
    assert "torchscript at batch 64" in found.evidence[1]


def test_a_factor_on_the_gpu_is_also_told_against_the_cpu() -> None:
    gpu = [sentences("eager", 1, 12, device="cuda"), sentences("onnx", 8, 1, device="cuda")]
    found = judged("ONNX at batch 8 is 12×", *gpu, sentences("eager", 1, 50))
    assert any(line.startswith("and 50× (") and line.endswith("on the CPU") for line in found.evidence)


@pytest.mark.parametrize(
    ("order", "change", "outcome"),
    [
        ("unsorted", 1.2, CONFIRMED), ("unsorted", 1.0, REFUTED), ("unsorted", 1.5, REFUTED), ("unsorted", 1.3, UNDECIDED),
        ("sorted", 0.9, CONFIRMED), ("sorted", 1.1, REFUTED), ("sorted", 0.6, REFUTED),
    ],
)  # fmt: skip
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_change_with_batch_is_held_against_ten_points_about_it(device, order, change, outcome) -> None:
    cells = [sentences("eager", 16, 5, order, device), sentences("eager", 64, 5 * change, order, device)]
    name = {"cpu": "CPU", "cuda": "GPU"}[device]
    assert judged(f"{name}: batch 16 to 64, {order}", *cells).outcome == outcome
    assert judged(f"{name}: batch 16 to 64, {order}", cells[0]).outcome == NOT_TESTED


@pytest.mark.parametrize(
    ("exponent", "linear", "not_linear"),
    [(1.0, CONFIRMED, REFUTED), (0.5, REFUTED, CONFIRMED), (1.5, REFUTED, CONFIRMED)],
)
def test_linear_is_an_exponent_near_one(exponent, linear, not_linear) -> None:
    cells = [padded("onnx", batch, length, 3 * length**exponent) for batch in (1, 4, 16, 64) for length in (8, 64, 512)]
    assert judged("CPU: latency linear in length", *cells).outcome == linear
    assert judged("CPU: latency not linear in length", *cells).outcome == not_linear
    assert "batch 64" in judged("CPU: latency linear in length", *cells).evidence[0]


def test_a_short_span_of_lengths_or_noise_does_not_tell_linear() -> None:
    near = [padded("onnx", 64, length, length) for length in (256, 512)]
    assert judged("CPU: latency linear in length", *near).outcome == NOT_TESTED
    noisy = [padded("onnx", 64, length, length**0.85, noise=NOISY) for length in (64, 512)]
    assert judged("CPU: latency linear in length", *noisy).outcome == UNDECIDED


@unhurried
@given(st.floats(0.2, 2.5), st.floats(0.01, 100))
def test_growth_finds_the_exponent(exponent: float, scale: float) -> None:
    cells = [padded("eager", 1, length, scale * length**exponent) for length in (8, 64, 512)]
    found = growth(over_lengths(figures(*cells))[0], 4)
    assert found is not None
    value, interval = found.exponents["eager"]
    assert math.isclose(value, exponent, abs_tol=1e-6)
    assert interval is not None and interval.low <= value <= interval.high


@pytest.mark.parametrize(
    ("cpu_ms", "gpu_ms", "outcome"),
    [(50, 0.6, CONFIRMED), (20, 0.6, REFUTED), (50, 5, REFUTED), (50, None, NOT_TESTED), (150, None, REFUTED),
     (None, 0.1, REFUTED), (100, 0.6, UNDECIDED)],
)  # fmt: skip
def test_the_range_is_over_both_devices_and_only_grows(cpu_ms, gpu_ms, outcome) -> None:
    cells = [sentences("eager", 1, cpu_ms)] if cpu_ms else []
    cells += [sentences("onnx", 64, gpu_ms, device="cuda")] if gpu_ms else []
    assert judged("50 down to 0.6 ms", *cells).outcome == outcome


def test_the_grid_stands_in_for_sentences_at_the_length_nearest_to_theirs() -> None:
    grid = [
        padded(b, n, length, t)
        for length in (8, 32, 512)
        for n in (1, 8)
        for b, t in (("eager", 9), ("torchscript", 9), ("onnx", 4))
    ]
    found = judged("ONNX wins clearly below batch 32", *grid)
    assert (found.outcome, found.evidence[0]) == (CONFIRMED, "cpu, bert, length 32")
    run = [*forms(1, 9, 9, 8.9), *forms(8, 9, 9, 8.9)]
    run = [replace(cell, source=source(path="corpus.jsonl")) for cell in run]
    assert judged("ONNX wins clearly below batch 32", *grid, *run).outcome == REFUTED


@pytest.mark.parametrize("loss", [{"fault": "parity broken"}, {"status": "oom", "rounds_ms": ()}, {"precision": "bf16"},
                                  {"model": "bert-tiny"}])  # fmt: skip
def test_what_is_not_the_model_is_left_out(loss) -> None:
    cells = [
        replace(cell, **loss) if cell.backend == "onnx" else cell
        for cell in [*forms(1, 50, 45, 20), *forms(8, 10, 9, 6)]
    ]
    assert judged("ONNX wins clearly below batch 32", *cells).outcome == NOT_TESTED


def test_disturbed_cells_count_and_are_marked() -> None:
    cells = [replace(cell, is_disturbed=True) for cell in [*forms(1, 50, 45, 20), *forms(8, 10, 9, 6)]]
    found = judged("ONNX wins clearly below batch 32", *cells)
    assert found.outcome == CONFIRMED
    assert found.evidence[0].endswith("some cells were disturbed")


# Pairs and crossovers.


def test_turns_pair_rounds_and_runs_apart_do_not() -> None:
    drifting = (0.5, 0.75, 1.0, 1.5, 2.0)
    slow, fast = sentences("eager", 8, 20, noise=drifting), sentences("onnx", 8, 10, noise=drifting)
    paired, apart = times_faster(slow, fast), times_faster(slow, replace(fast, source=source(path="other.jsonl")))
    assert paired is not None and paired.interval == Interval(pytest.approx(2), pytest.approx(2))
    assert apart is not None and apart.interval is not None and apart.interval.low < 1 < apart.interval.high
    assert times_faster(slow, replace(fast, rounds_ms=((10.0,),), source=source(path="other.jsonl"))) is None


@pytest.mark.parametrize(
    ("onnx_ms", "batch"),
    [((5, 5, 9, 9.1), 16), ((9, 5, 9, 9), 16), ((9, 9, 9, 5), None), ((9, 9, 9, 9), 1), ((5, 5, 5, 9), 64)],
)  # fmt: skip
def test_the_crossover_is_where_runtimes_stay_together(onnx_ms, batch) -> None:
    cells = [cell for size, ms in zip((1, 8, 16, 64), onnx_ms, strict=True) for cell in forms(size, 9, 9, ms)]
    found = crossover(over_batches(figures(*cells))[0])
    assert found is not None and found.batch == batch


def test_series_of_the_same_name_are_told_apart_by_their_file() -> None:
    first, second = (forms(8, 9, 9, 9, source=source(path=f"{name}.jsonl")) for name in "ab")
    alone, both = (
        Figures((first[0].source,), tuple(first)),
        Figures((first[0].source, second[0].source), (*first, *second)),
    )
    assert [one.name for one in over_batches(alone)] == ["cpu, bert, unsorted sentences"]
    names = ["cpu, bert, unsorted sentences, file 1", "cpu, bert, unsorted sentences, file 2"]
    assert [one.name for one in over_batches(both)] == names


def test_a_crossover_needs_two_batches_of_two_runtimes_and_intervals() -> None:
    assert crossover(over_batches(figures(*forms(1, 9, 9, 9)))[0]) is None
    noisy = [sentences(b, n, 9, noise=NOISY, is_interleaved=False) for n in (1, 8) for b in ("eager", "onnx")]
    found = crossover(over_batches(figures(*noisy))[0])
    assert found is not None and found.batch is None and set(found.outcomes.values()) == {UNDECIDED}


# The hand-made measurements.


@pytest.mark.parametrize(("ms", "outcome"), [(10.6, CONFIRMED), (4.0, REFUTED), (13.3, UNDECIDED)])
def test_a_time_by_hand_is_held_against_a_gpu(ms, outcome) -> None:
    found = judged("BERT 1×512: 10.63 ms", padded("eager", 1, 512, ms, "cuda", naive_ms=0.9))
    assert (found.outcome, "RTX 3090" in found.note) == (outcome, True)
    assert "a clock that never waits says 0.9 ms" in found.evidence[0]


def test_an_impossible_time_stays_refuted_whatever_a_faster_card_does() -> None:
    found = judged("BERT 32×512: 29.05 ms", padded("eager", 32, 512, 29.05, "cuda"))
    assert found.outcome == REFUTED
    assert found.evidence[1].startswith("here 29.1 ms (")


def decoder(model: str, step_ms: float, total_s: float = 1, backend: str = "eager", **values: Any) -> Generation:
    fields: dict[str, Any] = {
        "source": source("cuda", model), "model": model, "backend": backend, "precision": "fp32", "batch": 1,
        "new_tokens": 512, "decoding": "sample", "status": "ok", "rounds_ms": rounds(1e3 * total_s),
        "step_rounds_ms": rounds(step_ms),
    }  # fmt: skip
    return Generation(**(fields | values))


@pytest.mark.parametrize(("step_ms", "outcome"), [(0.068, CONFIRMED), (9, REFUTED), (0.0846, UNDECIDED)])
def test_a_time_step_is_a_decoding_step(step_ms, outcome) -> None:
    title = "GPT-2 medium 1×1024: 67.66 us per step"
    assert judged(title, generations=(decoder("gpt2-medium", step_ms),)).outcome == outcome
    assert judged(title, padded("eager", 1, 1, step_ms, "cuda", model="gpt2-medium")).outcome == outcome
    spread = judged(title, padded("eager", 1, 1024, 69.2, "cuda", model="gpt2-medium"))
    assert (spread.outcome, "67.6 us, which is no step" in spread.evidence[0]) == (NOT_TESTED, True)


@pytest.mark.parametrize(("seconds", "outcome"), [(5.41, CONFIRMED), (1.0, REFUTED), (6.76, UNDECIDED)])
def test_512_tokens_are_timed_with_eager_and_the_others_stand_beside(seconds, outcome) -> None:
    others = (decoder("gpt2", 1, 0.3, "onnx"), decoder("gpt2", 1, seconds))
    found = judged("512 tokens in 5.41 s", generations=others)
    assert found.outcome == outcome
    assert [line.partition(":")[0] for line in found.evidence] == ["eager", "onnx"]


@pytest.mark.parametrize(
    "change",
    [{"backend": "onnx"}, {"decoding": "beam"}, {"new_tokens": 128}, {"batch": 2}, {"fault": "parity broken"}, {"model": "gpt"},
     {"source": source("cpu", "gpt2")}],
)  # fmt: skip
def test_other_generations_do_not_judge_the_512_tokens(change) -> None:
    assert (
        judged("512 tokens in 5.41 s", generations=(replace(decoder("gpt2", 1, 5.41), **change),)).outcome == NOT_TESTED
    )


def test_out_of_memory_is_judged_by_what_gradients_keep() -> None:
    title = "BERT 64×512: out of memory"
    plain = padded("eager", 64, 512, 300, "cuda", peak_bytes=2 * GIB)
    grad = {size: padded("eager:grad", 64, 512, 300, "cuda", peak_bytes=size * GIB) for size in (20, 28)}
    assert [judged(title, plain, grad[size]).outcome for size in (28, 20)] == [CONFIRMED, REFUTED]
    assert "without gradients 2.00 GiB, which fits" in judged(title, plain, grad[28]).evidence
    out = replace(grad[28], status="oom", rounds_ms=(), peak_bytes=None)
    assert judged(title, out).outcome == CONFIRMED
    small = replace(
        out, source=source("cuda", fingerprint={"gpus": [{"name": "A small card", "total_bytes": 8 * GIB}]})
    )
    assert judged(title, small).outcome == NOT_TESTED
    assert judged(title, plain).outcome == NOT_TESTED


@pytest.mark.parametrize(("mib", "outcome"), [(435, CONFIRMED), (200, REFUTED)])
def test_out_of_memory_can_be_told_from_one_sequence(mib, outcome) -> None:
    here = source("cuda")
    held = (Held(here, "bert", "eager", "fp32", 418 * MIB),)
    found = judged("BERT 64×512: out of memory", held=held, stored=(Stored(here, "bert", 512, mib * MIB),))
    assert found.outcome == outcome
    assert f"autograd keeps {mib} MiB a sequence" in found.evidence[0]


def test_memory_once_loaded_is_split_into_what_it_is() -> None:
    medium = Held(source("cuda"), "gpt2-medium", "eager", "fp32", 1353 * MIB, 2093 * MIB, 713 * MIB)
    small = Held(source("cuda"), "gpt2", "eager", "fp32", 475 * MIB, 600 * MIB, 90 * MIB)
    assert judged("2093 MB once loaded", held=(medium, small)).outcome == CONFIRMED
    assert judged("1255 MB once loaded", held=(medium, small)).outcome == REFUTED
    more = judged("more than its 355 M need", held=(medium, small))
    assert (more.outcome, more.evidence[0]) == (CONFIRMED, "beside parameters and buffers the process holds 740 MiB")
    assert more.evidence[-1] == "with gpt2 it holds 125 MiB beside"
    assert judged("more than its 355 M need", held=(replace(medium, process_bytes=1400 * MIB),)).outcome == REFUTED
    assert judged("2093 MB once loaded", held=(replace(medium, process_bytes=None),)).outcome == NOT_TESTED


@pytest.mark.parametrize(
    ("parameters", "outcome"), [(124_000_000, CONFIRMED), (116_534_784, REFUTED), (130_000_000, UNDECIDED)]
)
def test_parameters_are_at_most_what_is_held(parameters, outcome) -> None:
    held = (Held(source(), "gpt", "eager", "fp32", 4 * parameters),)
    assert judged("GPT has 124 M parameters", held=held).outcome == outcome


def test_keys_and_values_are_arithmetic() -> None:
    title = "37,748,736 bytes of keys and values"
    assert judged(title, cached=(Cached("gpt", 512, 37_748_736),)).outcome == CONFIRMED
    assert judged(title, cached=(Cached("gpt", 512, 18_874_368),)).outcome == REFUTED
    assert judged(title, cached=(Cached("gpt", 128, 9_437_184),)).outcome == NOT_TESTED
