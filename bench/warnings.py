"""What a reader of a record must know before trusting it; each line ends with what helps."""

from __future__ import annotations

from bench import statistics
from bench.records import Record

FEW_SAMPLES = 5
#: Interquartile range over median above which a cell was disturbed.
WIDE_SPREAD = 0.25


def warnings_of(record: Record) -> list[str]:
    """Warnings on one record, one line each."""
    found = []
    facts, samples = record.facts, len(record.samples)
    if record.status != "ok":
        return []
    if samples < FEW_SAMPLES:
        found.append(f"median of only {samples} samples; raise --max-seconds-per-cell or --rounds")
    if samples and (spread := statistics.spread(record.samples)) > WIDE_SPREAD:
        found.append(f"spread {bucket(spread)}; stop other work on this machine and measure again")
    if record.turns == "sequential":
        found.append("timed apart from the others, as memory did not hold all workers; compare fewer backends at once")
    if facts.get("nodes_on_cpu"):
        total = sum(facts["nodes_per_provider"].values())
        found.append(
            f"{facts['nodes_on_cpu']} of {total} graph nodes run on the CPU provider; see facts.nodes_per_provider"
        )
    if facts.get("graph_breaks"):
        found.append(f"{facts['graph_breaks']} graph breaks; TORCH_LOGS=graph_breaks shows where")
    if facts.get("recompiles_while_timing"):
        found.append(f"{facts['recompiles_while_timing']} recompilations while timing; TORCH_LOGS=recompiles shows why")
    if facts.get("compile_cache_hits"):
        found.append("compiled code came from the cache, so the first call is shorter than a cold one")
    if not record.judged:
        found.append(f"{record.backend} computes nothing; its time is a script's plus the harness's own")
    elif record.verdict not in ("exact", "equivalent"):
        found.append(f"parity is {record.verdict}: {record.parity.get('reason', '')}")
    return found


def bucket(spread: float) -> str:
    """A wide spread in words that are alike for similar cells, so that reports can group them."""
    return next((f"over {limit:.0%}" for limit in (10, 1, 0.5) if spread > limit), f"over {WIDE_SPREAD:.0%}")
