"""Times that were measured by hand on an RTX 3090, claim by claim; the rows come from bench/presets/figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from bench import statistics
from bench.study.claims import BY_HAND, CARD, NAMES, Claim, shown, span
from bench.study.figures import CUDA, PRECISION, Figure, Figures
from bench.study.findings import ABOUT, REFUTED, WITHIN_ABOUT, Finding, about, not_tested
from bench.study.hand_made_memory import GIB, out_of_memory
from bench.workloads import published
from bench.workloads.published import JudgedRow

GENERATED_TOKENS, GENERATED_SECONDS = 512, 5.41


def _rows() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((published.FIGURES / "rtx3090.json").read_text())
    return data


def _here(cell: Figure) -> str:
    disturbed = ", disturbed" if cell.is_tainted else ""
    naive = f"; a clock that never waits says {shown(cell.naive_ms)} ms" if cell.naive_ms is not None else ""
    return f"here {shown(cell.ms)} ms{span(cell.interval_ms)}{disturbed}{naive}"


def _time(row: JudgedRow) -> Callable[[Figures], Finding]:
    """A pass takes so many milliseconds."""

    def weigh(figures: Figures) -> Finding:
        cell = figures.padded(row.model, row.batch, row.length)
        is_timed = cell is not None and cell.is_usable
        evidence = (_here(cell),) if cell is not None and is_timed else ()
        assert row.median_ms is not None and row.flops_per_second is not None and row.peak_share is not None
        if row.verdict == "implausible":
            arithmetic = (
                f"{row.flops / 1e9:.0f} GFLOP in that time are {row.flops_per_second / 1e12:.0f} TFLOP/s, "
                f"{row.peak_share:.0%} of that card's peak: its clock did not wait for the card"
            )
            return Finding(REFUTED, (arithmetic, *evidence))
        if cell is None or not is_timed:
            return not_tested()
        return Finding(about(cell.interval_ms, row.median_ms), evidence)

    return weigh


def _step(row: JudgedRow, single_ms: float | None) -> Callable[[Figures], Finding]:
    """A time step takes so many microseconds; `single_ms` is what a pass over one token took on that card."""

    def weigh(figures: Figures) -> Finding:
        assert row.us_per_step is not None
        claimed_ms = row.us_per_step / 1e3
        spread = figures.padded(row.model, row.batch, row.length)
        evidence = []
        is_contradicted = single_ms is not None and single_ms > claimed_ms * ABOUT
        if single_ms is not None and is_contradicted:
            evidence.append(f"on that card a pass over one token took {shown(1e3 * single_ms)} us, by the same hand")
        if spread is not None and spread.is_usable:
            share = f"{shown(1e3 * spread.ms / row.length)} us"
            evidence.append(f"here a pass over {row.length} tokens by their number makes {share}, which is no step")
        generated = next(
            (
                one
                for one in figures.generations
                if (one.model, one.batch, one.backend, one.precision) == (row.model, row.batch, "eager", PRECISION)
                and one.source.device == CUDA and one.is_usable and one.is_of_single_steps and one.step_rounds_ms
            ),
            None,
        )  # fmt: skip
        if generated is not None:
            step = statistics.median(statistics.pooled(generated.step_rounds_ms))
            interval = statistics.median_interval(generated.step_rounds_ms)
            line = f"here a decoding step of eager takes {shown(1e3 * step)} us{span(interval, 1e3)}"
            return Finding(REFUTED if is_contradicted else about(interval, claimed_ms), (line, *evidence))
        single = figures.padded(row.model, row.batch, 1)
        if single is None or not single.is_usable:
            return Finding(REFUTED, tuple(evidence)) if is_contradicted else not_tested(*evidence)
        line = f"here a pass over one token takes {shown(1e3 * single.ms)} us{span(single.interval_ms, 1e3)}"
        return Finding(REFUTED if is_contradicted else about(single.interval_ms, claimed_ms), (line, *evidence))

    return weigh


def _generation(figures: Figures) -> Finding:
    found = [
        one
        for one in figures.generations
        if (one.model, one.batch, one.new_tokens, one.precision) == ("gpt2", 1, GENERATED_TOKENS, PRECISION)
        and one.source.device == CUDA and one.is_usable and one.is_of_single_steps
    ]  # fmt: skip
    lines = []
    for one in sorted(found, key=lambda one: one.backend != "eager"):
        total = statistics.median(statistics.pooled(one.rounds_ms)) / 1e3
        lines.append(f"{one.backend}: {shown(total)} s{span(statistics.median_interval(one.rounds_ms), 1e-3)}")
    eager = next((one for one in found if one.backend == "eager"), None)
    if eager is None:
        return not_tested(*lines)
    return Finding(about(statistics.median_interval(eager.rounds_ms), GENERATED_SECONDS * 1e3), tuple(lines))


def _of_rows() -> Iterator[Claim]:
    """Claims for every published row: its time, its steps, or that it ended without one."""
    data = _rows()
    rows = published.judge(data)
    singles = {(row.model, row.batch): row.median_ms for row in rows if row.length == 1}
    for row in rows:
        name, needs = NAMES[row.model], f"bench compare --preset seed-{row.model} --device cuda"
        shape = f"{row.batch}×{row.length}"
        if row.median_ms is None:
            size = data["card"]["memory_bytes"]
            yield Claim(
                f"{name} {shape}: {'fails' if row.verdict == 'failed' else row.verdict}",
                f"A pass of {name} over {shape} tokens ends without a time on a card of {size / GIB:.2f} GiB "
                f"({row.verdict}).",
                BY_HAND,
                CUDA,
                "One call with gradients on, as it was made there, allocates more than that card has: its peak on a "
                "card that is large enough, or weights and what autograd keeps of every sequence.",
                f"{needs}; bench memory --model {row.model} --largest-batch --length {row.length} --device cuda",
                out_of_memory(row, size),
                CARD,
            )
            continue
        yield Claim(
            f"{name} {shape}: {row.median_ms:.2f} ms",
            f"A pass of {name} over {shape} tokens takes {row.median_ms:.2f} ms.",
            BY_HAND,
            CUDA,
            f"Refuted where the operations of the pass take longer at the peak of that card; else by the interval of "
            f"eager's median, {WITHIN_ABOUT} of the claim.",
            needs,
            _time(row),
            CARD,
        )
        if row.us_per_step is not None:
            yield Claim(
                f"{name} {shape}: {row.us_per_step:g} us per step",
                f"A time step of {name} takes {row.us_per_step:g} us at batch {row.batch} (a pass over {row.length} "
                "tokens, divided by their number).",
                BY_HAND,
                CUDA,
                "A step yields one token behind the others: the interval of eager's decoding step in bench generate, "
                f"or of a pass over one token, {WITHIN_ABOUT} of the claim. Refuted where a pass over one token "
                "took longer on that card itself.",
                f"bench generate --model {row.model} --backends eager --batches {row.batch} --device cuda",
                _step(row, singles.get((row.model, row.batch))),
                CARD,
            )


CLAIMS: tuple[Claim, ...] = (
    *_of_rows(),
    Claim(
        f"GPT-2 small: {GENERATED_TOKENS} tokens in {GENERATED_SECONDS} s",
        f"GPT-2 small writes {GENERATED_TOKENS} tokens at batch 1 in {GENERATED_SECONDS} s, in plain PyTorch with a "
        "cache by concatenation.",
        BY_HAND,
        CUDA,
        f"The interval of eager's whole generation, greedy or sampled, {WITHIN_ABOUT} of the claim; the other "
        "backends stand beside it.",
        f"bench generate --model gpt2 --new-tokens {GENERATED_TOKENS} --decoding sample --device cuda",
        _generation,
        CARD,
    ),
)
