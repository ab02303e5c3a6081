"""What a reader of a record must know before trusting it; each line ends with what helps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from bench import statistics
from bench.spec import TimingPlan

FEW_SAMPLES = 5
#: Interquartile range over median above which a cell was disturbed.
WIDE_SPREAD = 0.25
#: Change of the rounds' medians from first to last above which a trend matters.
WIDE_DRIFT = 0.05
#: Share of severe outliers above which something strikes again and again.
MANY_OUTLIERS = 0.1
SAMPLES_FOR_A_SHARE = 20
#: Host time to enqueue over device time above which the host decides (the rule of NVIDIA's trtexec).
HOST_BOUND = 0.8


class Timed(Protocol):
    """What is asked of a record, whatever was timed."""

    @property
    def status(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def samples(self) -> Sequence[int]: ...
    @property
    def rounds(self) -> Sequence[Sequence[int]]: ...
    @property
    def host_share(self) -> float | None: ...
    @property
    def unmet(self) -> Sequence[str]: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...
    @property
    def turns(self) -> str: ...
    @property
    def judged(self) -> bool: ...
    @property
    def verdict(self) -> str: ...
    @property
    def parity(self) -> Mapping[str, Any]: ...


def warnings_of(record: Timed, plan: TimingPlan) -> list[str]:
    """Warnings on one record, one line each."""
    if record.status != "ok":
        return []
    return [*_of_samples(record), *_of_stopping(record, plan), *_of_facts(record), *_of_parity(record)]


def _of_samples(record: Timed) -> Iterator[str]:
    samples = record.samples
    if len(samples) < FEW_SAMPLES:
        yield f"median of only {len(samples)} samples; raise --max-seconds-per-cell or --rounds"
    if samples and (spread := statistics.spread(samples)) > WIDE_SPREAD:
        yield f"spread {bucket(spread, WIDE_SPREAD)}; stop other work on this machine and measure again"
    severe = [outlier for outlier in statistics.outliers(samples) if outlier.kind.endswith("severe")]
    if len(samples) >= SAMPLES_FOR_A_SHARE and len(severe) > MANY_OUTLIERS * len(samples):
        yield f"over {MANY_OUTLIERS:.0%} of the samples are severe outliers (kept); something strikes again and again"
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


def _of_stopping(record: Timed, plan: TimingPlan) -> Iterator[str]:
    if "warm-up" in record.unmet:
        yield f"warm-up ended at its ceiling of {plan.warmup_most_seconds:g} s before it was seen to be stable"
    if "rounds" in record.unmet:
        yield f"fewer than {plan.rounds} rounds, as its shape's ceiling of seconds was reached"
    if "precision" in record.unmet:
        yield (
            "its shape's ceiling of seconds was reached with the median's interval wider than "
            f"±{100 * plan.target_precision:.3g}%; raise --max-seconds-per-cell, or quieten the machine"
        )


def of_placement(facts: Mapping[str, Any]) -> Iterator[str]:
    """What runs on the host in a run on a GPU, and what is copied for it.

    ONNX Runtime leaves arithmetic on shapes to the CPU provider on purpose; but it may copy an input for such a node
    without a copy in the graph, so nodes are told whether copies were seen or not.
    """
    nodes, copies = facts.get("nodes_on_cpu"), facts.get("copies_inserted")
    if nodes:
        total = sum(facts["nodes_per_provider"].values())
        names = list(facts.get("operators_on_cpu") or {})
        named = f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else ""
        yield f"{nodes} of {total} graph nodes run on the CPU provider{named}; see facts.nodes_per_provider"
    if copies:
        yield f"{copies} copies between host and device stand in the graph; see facts"


def _of_facts(record: Timed) -> Iterator[str]:
    facts = record.facts
    if record.turns == "sequential":
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


def _of_parity(record: Timed) -> Iterator[str]:
    if not record.judged:
        yield f"{record.backend} computes nothing; its time is a script's plus the harness's own"
    elif record.verdict not in ("exact", "equivalent"):
        yield f"parity is {record.verdict}: {record.parity.get('reason', '')}"


def bucket(share: float, least: float) -> str:
    """A share above `least` in words that are alike for similar cells, so that reports can group them."""
    return "over 100%" if share > 1 else f"over {least:.0%}"
