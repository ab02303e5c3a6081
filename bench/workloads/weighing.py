"""What a run that decides goes by: the traffic that weighs its shapes, and who may be taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.grid import place
from bench.run.stopping import TimedWorkload
from bench.spec import DEPRECATED, Candidate, Shape
from bench.traffic import Traffic, read_traffic


class Weighing(TimedWorkload):
    """A workload of shapes whose options have `traffic`, `served`, `served_from` and `max_loss`."""

    options: Any

    @classmethod
    def weighed(cls, options: Any) -> Any:
        """Options with the traffic in place that they name; raises UserError for a file that is none, and for traffic
        that lies outside the grid.
        """
        if options.traffic is None:
            return options
        is_file = not isinstance(options.traffic, Traffic)
        given = read_traffic(Path(options.traffic)) if is_file else options.traffic
        path = options.traffic if is_file else None
        found = replace(options, traffic=path, served=given.kept, served_from=given.source)
        if not cls(found).weights():
            shape = max(given.counts, key=lambda one: given.counts[one])
            raise UserError(
                f"no request of the traffic lies within the grid, e.g. batch {shape.batch} × length {shape.length}; "
                "use --batches and --lengths up to those"
            )
        return found

    @property
    def traffic(self) -> Traffic | None:
        """The traffic, if some was given."""
        return Traffic.of(self.options.served, self.options.served_from) if self.options.served else None

    def weights(self) -> dict[Shape, float]:
        """How often each shape of the grid is called, by the traffic; {} without one."""
        found: dict[Shape, float] = {}
        for shape, share in self.traffic.shares() if self.traffic else ():
            at = place(shape, self.points())
            for cell, part in at.cells.items() if at else ():
                found[cell] = found.get(cell, 0.0) + share * part
        return found

    def may_be_taken(self, candidate: Candidate) -> bool:
        """True for a candidate that the choice at the end of a run may take."""
        is_precise = candidate.precision == "fp32" or self.options.max_loss is not None
        return candidate.copy == 1 and is_precise and candidate.backend not in DEPRECATED
