"""Rules for what was measured by hand on an RTX 3090: times, steps, memory and sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from bench import statistics
from bench.study.figures import CUDA, PRECISION, Figure, Figures, Held
from bench.study.findings import ABOUT, CONFIRMED, REFUTED, UNDECIDED, Finding, about, not_tested, shown, span
from bench.workloads.published import GIB, MIB, JudgedRow

FP32_BYTES = 4
PARAMETER_MARGIN = 0.01


def _here(cell: Figure) -> str:
    disturbed = ", disturbed" if cell.is_disturbed else ""
    naive = f"; a clock that never waits says {shown(cell.naive_ms)} ms" if cell.naive_ms is not None else ""
    return f"here {shown(cell.ms)} ms{span(cell.interval_ms)}{disturbed}{naive}"


def time(row: JudgedRow) -> Callable[[Figures], Finding]:
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


def step(row: JudgedRow, single_ms: float | None) -> Callable[[Figures], Finding]:
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


def _generation(model: str, tokens: int, seconds: float) -> Callable[[Figures], Finding]:
    """So many tokens at batch 1 take so many seconds."""

    def weigh(figures: Figures) -> Finding:
        found = [
            one
            for one in figures.generations
            if (one.model, one.batch, one.new_tokens, one.precision) == (model, 1, tokens, PRECISION)
            and one.source.device == CUDA and one.is_usable and one.is_of_single_steps
        ]  # fmt: skip
        lines = []
        for one in sorted(found, key=lambda one: one.backend != "eager"):
            total = statistics.median(statistics.pooled(one.rounds_ms)) / 1e3
            lines.append(f"{one.backend}: {shown(total)} s{span(statistics.median_interval(one.rounds_ms), 1e-3)}")
        eager = next((one for one in found if one.backend == "eager"), None)
        if eager is None:
            return not_tested(*lines)
        return Finding(about(statistics.median_interval(eager.rounds_ms), seconds * 1e3), tuple(lines))

    return weigh


def out_of_memory(row: JudgedRow, card_bytes: int) -> Callable[[Figures], Finding]:
    """A pass with gradients on does not fit into the card's memory."""
    limit = f"{card_bytes / GIB:.2f} GiB"

    def weigh(figures: Figures) -> Finding:
        plain = figures.padded(row.model, row.batch, row.length)
        without: tuple[str, ...] = ()
        if plain is not None and plain.is_usable and plain.peak_bytes is not None:
            word = "fits" if plain.peak_bytes <= card_bytes else "does not fit either"
            without = (f"without gradients {plain.peak_bytes / GIB:.2f} GiB, which {word}",)
        grad = figures.padded(row.model, row.batch, row.length, "eager:grad")
        if grad is not None and grad.is_usable and grad.peak_bytes is not None:
            line = f"one call with gradients allocates {grad.peak_bytes / GIB:.2f} GiB against {limit}"
            return Finding(CONFIRMED if grad.peak_bytes > card_bytes else REFUTED, (line, *without))
        if grad is not None and grad.status == "oom":
            here = (grad.source.fingerprint.get("gpus") or [{}])[0].get("total_bytes") or 0
            if here >= card_bytes:
                line = f"one call with gradients runs out of the {here / GIB:.1f} GiB of this card too"
                return Finding(CONFIRMED, (line, *without))
        stored = next(
            (
                one
                for one in figures.stored
                if (one.source.device, one.model, one.length) == (CUDA, row.model, row.length)
            ),
            None,
        )
        held = figures.held_by_eager(row.model, CUDA)
        if stored is None or held is None:
            return not_tested(*without)
        needed = held.parameters_bytes + row.batch * stored.bytes_per_sequence
        line = (
            f"autograd keeps {stored.bytes_per_sequence / MIB:.0f} MiB a sequence; with the weights that makes "
            f"{needed / GIB:.2f} GiB against {limit}"
        )
        return Finding(CONFIRMED if needed > card_bytes else REFUTED, (line, *without))

    return weigh


def process(model: str, mib: int) -> Callable[[Figures], Finding]:
    """The process of eager holds so many MiB of the card."""

    def weigh(figures: Figures) -> Finding:
        held = figures.held_by_eager(model, CUDA)
        if held is None or held.process_bytes is None:
            return not_tested()
        here = held.process_bytes / MIB
        is_near = mib / ABOUT <= here <= mib * ABOUT
        return Finding(CONFIRMED if is_near else REFUTED, (f"here the process holds {here:.0f} MiB", *_parts(held)))

    return weigh


def _parts(held: Held) -> Iterator[str]:
    yield f"parameters and buffers are {held.parameters_bytes / MIB:.0f} MiB of it"
    if held.context_bytes is not None:
        yield f"the runtime's own context and kernels are {held.context_bytes / MIB:.0f} MiB, whatever the model"


def _more_than_parameters(model: str, smaller: str) -> Callable[[Figures], Finding]:
    """The process holds over a tenth more than its parameters; `smaller` is another model beside it."""

    def weigh(figures: Figures) -> Finding:
        held = figures.held_by_eager(model, CUDA)
        if held is None or held.process_bytes is None:
            return not_tested()
        beside = held.process_bytes - held.parameters_bytes
        line = f"beside parameters and buffers the process holds {beside / MIB:.0f} MiB"
        small = figures.held_by_eager(smaller, CUDA)
        lines = [line, *_parts(held)]
        if small is not None and small.process_bytes is not None:
            lines.append(
                f"with {smaller} it holds {(small.process_bytes - small.parameters_bytes) / MIB:.0f} MiB beside"
            )
        return Finding(CONFIRMED if beside > held.parameters_bytes / 10 else REFUTED, tuple(lines))

    return weigh


def _parameters(model: str, millions: int) -> Callable[[Figures], Finding]:
    def weigh(figures: Figures) -> Finding:
        held = figures.held_by_eager(model)
        if held is None:
            return not_tested()
        here = held.parameters_bytes / FP32_BYTES / 1e6
        line = f"parameters and buffers are {held.parameters_bytes:,} bytes in fp32, {here:.1f} M elements"
        if here < millions * (1 - PARAMETER_MARGIN):
            return Finding(REFUTED, (line, "buffers included, it has fewer"))
        if here <= millions * (1 + PARAMETER_MARGIN):
            return Finding(CONFIRMED, (line,))
        return Finding(UNDECIDED, (line, "what is above the claim may be buffers"))

    return weigh


def _cached(model: str, length: int, bytes: int) -> Callable[[Figures], Finding]:
    """Keys and values of a sequence take so many bytes."""

    def weigh(figures: Figures) -> Finding:
        found = next((one for one in figures.cached if (one.model, one.length) == (model, length)), None)
        if found is None:
            return not_tested()
        line = f"{found.bytes_per_sequence:,} bytes by layers, heads and head width of the model that was loaded"
        return Finding(CONFIRMED if found.bytes_per_sequence == bytes else REFUTED, (line,))

    return weigh


RULES: Mapping[str, Callable[..., Callable[[Figures], Finding]]] = {
    "generation": _generation,
    "more_than_parameters": _more_than_parameters,
    "parameters": _parameters,
    "cached": _cached,
}
