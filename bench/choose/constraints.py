"""What a runtime must keep to be taken: service levels, memory, parity; and what is asked of the rest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bench.columns import size
from bench.errors import UserError
from bench.regret import MOST_REGRET
from bench.spec import nearest, parse_size
from bench.traffic import Slo, parse_slo
from bench.words import share

OBJECTIVES = ("latency", "throughput", "cost")
#: Verdicts that can be asked for, best first; what is broken or unjudged never qualifies.
PARITIES = ("exact", "equivalent", "lossy")


@dataclass(frozen=True)
class Constraints:
    """Everything that a choice is made under."""

    objective: str = "latency"
    slos: tuple[Slo, ...] = ()
    max_memory_bytes: int | None = None
    max_memory: str = ""
    """As it was asked for, e.g. "2GB"."""
    min_parity: str = "equivalent"
    requests_per_restart: int | None = None
    prices: tuple[float, ...] = ()
    """US dollars an hour, of each run; empty if none is given."""
    max_loss: float | None = None
    """What a candidate below fp32 may lose: RMSE over the reference's RMS. None: none is taken."""
    allow_deprecated: bool = False
    max_regret: float = MOST_REGRET
    """Bound of the regret up to which a candidate is taken."""

    @property
    def memory_text(self) -> str:
        """`1.86 GiB (2GB)`: powers of two, and the words that were given if they are of another kind."""
        found, asked = size(self.max_memory_bytes or 0), self.max_memory
        return found if not asked or asked.isdecimal() else f"{found} ({asked})"


def parse_constraints(
    runs: int, *, objective: str = "latency", slo: str | None = None, max_memory: str | int | None = None,
    min_parity: str | None = None, requests_per_restart: int | None = None, price: str | float | None = None,
    max_loss: str | float | None = None, allow_deprecated: bool = False, max_regret: str | float | None = None,
) -> Constraints:  # fmt: skip
    """The user's constraints for a choice among so many `runs`; raises UserError naming the option at fault."""
    check_known(objective, OBJECTIVES, "--objective")
    loss = None if max_loss is None else share(max_loss, "--max-loss")
    min_parity = settled_parity(min_parity, loss is not None)
    memory = None if max_memory is None else parse_size(max_memory, "--max-memory")
    if memory is not None and memory < 1:
        raise UserError(f"--max-memory {str(max_memory)[:40]!r} must be positive; write e.g. --max-memory 2GB")
    if requests_per_restart is not None and requests_per_restart < 1:
        raise UserError(f"--requests-per-restart {requests_per_restart} is below 1; write e.g. 100000")
    prices = _prices(price, runs)
    if objective == "cost" and not prices:
        raise UserError("--objective cost needs what the machine costs; add --price USD_PER_HOUR, e.g. --price 0.40")
    slos = parse_slo(slo) if slo is not None else ()
    return Constraints(
        objective, slos, memory, str(max_memory or ""), min_parity, requests_per_restart, prices, loss,
        allow_deprecated, MOST_REGRET if max_regret is None else share(max_regret, "--max-regret"),
    )  # fmt: skip


def settled_parity(min_parity: str | None, has_max_loss: bool) -> str:
    """The least verdict that is taken. If what may be lost is given (`has_max_loss`), that decides, and not a verdict;
    else "equivalent". Raises UserError for an unknown one.
    """
    found = min_parity or ("lossy" if has_max_loss else "equivalent")
    check_known(found, PARITIES, "--min-parity")
    return found


def check_known(value: str, known: Sequence[str], option: str) -> None:
    """Raise UserError naming `option` for a word that is not among those `known`."""
    if value not in known:
        raise UserError(f"{option} {value[:40]!r} is not known{nearest(value, known)}; use {', '.join(known)}")


def _prices(price: str | float | None, runs: int) -> tuple[float, ...]:
    if price is None:
        return ()
    words = [part.strip() for part in str(price).split(",")]
    if not all(re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", word) and float(word) > 0 for word in words):
        raise UserError(f"--price {str(price)[:40]!r} is not a price; write US dollars an hour, e.g. --price 0.40")
    if len(words) not in (1, runs):
        runs_given = f"{runs} run{'' if runs == 1 else 's'}"
        raise UserError(f"--price names {len(words)} prices for {runs_given}; give one, or one a run in their order")
    return tuple(float(word) for word in words) * (runs if len(words) == 1 else 1)
