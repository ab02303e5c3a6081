"""What a reader of a record must know before trusting it; each line ends with what helps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench import statistics
from bench.run.record import SAME_MODEL, Record, Run

FEW_SAMPLES = 5
#: Interquartile range over median above which a cell was disturbed.
WIDE_SPREAD = 0.25
#: Change of the rounds' medians from first to last above which a trend matters.
WIDE_DRIFT = 0.05
#: Share of severe outliers above which an interruption recurs.
MANY_OUTLIERS = 0.1
SAMPLES_FOR_A_SHARE = 20
#: Host time to enqueue over device time above which the host decides (the rule of NVIDIA's trtexec).
HOST_BOUND = 0.8
#: Share of all CPU time, used by others before a run began, above which they will have disturbed it.
BUSY_SHARE = 0.1


def of_record(run: Run, record: Record) -> list[str]:
    """Warnings on one record, one line each."""
    found = [f"disturbed: {line}" for line in run.disturbances(record)]
    if record.status != "ok":
        return found
    return [
        *_of_samples(record),
        *_of_facts(record),
        *run.workload.warnings(run, record),
        *_of_parity(record),
        *_of_others(run, record),
        *found,
    ]


def _of_samples(record: Record) -> Iterator[str]:
    samples = record.samples
    if not samples:
        return
    if len(samples) < FEW_SAMPLES:
        yield f"median of only {len(samples)} samples; raise --rounds"
    if (spread := statistics.spread(samples)) > WIDE_SPREAD:
        yield f"spread {bucket(spread, WIDE_SPREAD)}; stop other work on this machine and measure again"
    severe = [outlier for outlier in statistics.outliers(samples) if outlier.kind.endswith("severe")]
    if len(samples) >= SAMPLES_FOR_A_SHARE and len(severe) > MANY_OUTLIERS * len(samples):
        yield f"over {MANY_OUTLIERS:.0%} of the samples are severe outliers (kept); likely a recurring interruption"
    drift = statistics.drift(record.rounds)
    if drift is not None and abs(drift) > WIDE_DRIFT:
        direction = "slower" if drift > 0 else "faster"
        yield (
            f"became {direction} from round to round, by {bucket(abs(drift), WIDE_DRIFT)} in all; the machine's clock "
            "or temperature drifts, let it settle and measure again"
        )
    if record.host_share is not None and record.host_share > HOST_BOUND:
        yield (
            f"the host takes over {HOST_BOUND:.0%} of the device's time to enqueue a call, so the GPU waits for it; "
            "larger batches, CUDA graphs or a faster CPU would help"
        )


def of_placement(facts: Mapping[str, Any]) -> Iterator[str]:
    """What runs on the host in a run on a GPU, and what is copied for it. Nodes are named whether copies were seen or
    not, as ONNX Runtime may copy an input without a copy in the graph.
    """
    nodes, copies = facts.get("nodes_on_cpu"), facts.get("copies_inserted")
    if nodes:
        total = sum(facts["nodes_per_provider"].values())
        names = list(facts.get("operators_on_cpu") or {})
        named = f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else ""
        yield f"{nodes} of {total} graph nodes run on the CPU provider{named}; see facts.nodes_per_provider"
    if copies:
        yield f"{copies} copies between host and device stand in the graph; see facts"


def _of_facts(record: Record) -> Iterator[str]:
    facts = record.facts
    if not record.is_interleaved:
        yield "timed apart from the others, as memory did not hold all workers; compare fewer backends at once"
    yield from of_placement(facts)
    if facts.get("fused_attention") == 0:
        yield "no attention was fused, as no rewriter knows this model's; what was is in facts.fused_operators"
    if facts.get("graph_breaks"):
        yield f"{facts['graph_breaks']} graph breaks; TORCH_LOGS=graph_breaks shows where"
    if facts.get("recompiles_while_timing"):
        yield f"{facts['recompiles_while_timing']} recompilations while timing; TORCH_LOGS=recompiles shows why"
    if facts.get("compile_cache_hits"):
        yield "compiled code came from the cache, so the first call is shorter than a cold one"


def _of_parity(record: Record) -> Iterator[str]:
    if not record.is_timed:
        return
    if not record.is_judged:
        yield f"{record.candidate.backend} computes nothing; its time is a script's plus the harness's own"
    elif record.parity and record.verdict not in SAME_MODEL:
        yield f"parity is {record.verdict}: {record.parity.get('reason', '')}"


def _of_others(run: Run, record: Record) -> Iterator[str]:
    """Warnings that rest on other records or on the machine."""
    if run.is_implausible(record):
        yield (
            "implausible: the median lies below the roofline, the time that this machine's peak allows; the work was "
            "not done, or not waited for"
        )
    if why := run.why_undecided(record):
        yield f"no speed-up: {why}; {'measure again undisturbed' if why.startswith('disturbed') else 'raise --rounds'}"
    if width := run.unsteadiness(record):
        folds = next(f"over {limit}-fold" for limit in (100, 10, 2, 0) if width > limit)
        yield f"no speed-up, as the rounds disagree on it (interval {folds}); measure again undisturbed"


def of_machine(run: Run) -> list[str]:
    """Warnings on the machine of a run."""
    lines = []
    timed = [record for record in run.records if record.is_timed]
    busy = run.fingerprint.get("busy_share", 0.0)
    if busy > BUSY_SHARE and timed:
        lines.append(f"other work took {busy:.0%} of the CPUs when the run began; stop it and measure again")
    measured = [record.conditions for record in timed if record.conditions]
    if run.options.kind == "cuda" and measured and not any("gpu" in conditions for conditions in measured):
        lines.append("nothing watched the GPU's clocks and processes; run: pip install nvidia-ml-py")
    peaks = run.peaks
    if peaks is not None and any(
        peaks.is_disturbed(run.options.computed_in(candidate.precision)) for candidate in run.candidates
    ):
        lines.append(
            "no rooflines, as other work ran while the machine's peaks were measured; the next run measures them again"
        )
    return lines


def bucket(share: float, least: float) -> str:
    """A share above `least` in words that are alike for similar cells, so that reports can group them."""
    return "over 100%" if share > 1 else f"over {least:.0%}"
