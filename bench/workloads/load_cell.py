"""The worker side of `bench load`: it serves requests when they are due."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.parity import judging
from bench.parity.cell import Cell, settle
from bench.parity.inputs import InputPlan
from bench.process.queue import Batching
from bench.process.serving import LAST, Server


class LoadCell(Cell):
    """Warms up every shape that a call can have, serves slices, and judges the last call and one more."""

    def begin(
        self,
        ids: dict[str, Any],
        shapes: list[list[int]],
        static_shapes: list[list[int]],
        batching: dict[str, Any],
        padded_to: dict[str, int],
        pad_token_id: int,
        max_shapes: int,
    ) -> dict[str, Any]:
        """Take in sequences (`ids` by length) and call every shape that can occur."""
        from backends.base import UnsupportedError

        served = [ids, shapes, batching, padded_to]
        if self.kept.get("served") != served:  # what was warmed up for the same requests stays so
            server = Server(self.backend, ids, Batching(**batching), padded_to, pad_token_id)
            self.kept |= {"served": served, "server": server}
        self.server = server = self.kept["server"]
        wanted = static_shapes if server.has_static_shapes else shapes
        if server.has_static_shapes and len(wanted) > max_shapes:
            raise UnsupportedError(
                f"{self.backend.spec.name} would compile {len(wanted)} shapes, above --max-shapes {max_shapes}; "
                "round lengths up with --bucket 16 or more, or raise it"
            )
        settle()
        server.meet(wanted)
        self.facts_before = self.backend.facts() | server.facts
        figures = {"shapes": len(wanted), "warmed": server.met}
        return {"once": {"first_call_ns": server.first_calls_ns}, "facts": self.facts_before, "figures": figures}

    def turn(self, due_ns: list[int], shapes: list[list[int]], most_seconds: float) -> dict[str, Any]:
        served = self.server.serve(due_ns, shapes, most_seconds)
        times = {"due": due_ns, "waits": served.waits_ns, "latency": served.latency_ns}
        return {"times_ns": times}

    def judge(
        self,
        units: Mapping[str, Any],
        atol: float,
        rtol: float,
        **further: Any,
    ) -> dict[str, Any]:
        """Figures of up to three rows of each call; a row has its reference by itself, which must not matter."""
        facts, server, rows_before = self.facts_after(), self.server, further["rows_before"]
        figures: dict[str, Any] = {}
        for name, sequences in sorted(further["calls"].items(), key=lambda one: one[0] != LAST):
            last, first_row = server.last_call if name == LAST else None, 0
            if last is not None and last.first + last.count == len(rows_before):
                first_row = sum(rows_before[last.first : -1])
                shape, outputs = last.shape, self.backend.fetch(last.outputs)
            else:
                batch = server.joined(sequences)
                facts["judged_by_further_calls"] = facts.get("judged_by_further_calls", 0) + 1
                shape, outputs = batch["input_ids"].shape, self.backend.fetch(server.call(batch))
            for row in sorted({0, len(sequences) // 2, len(sequences) - 1}) if units else ():
                length, draw = sequences[row]
                asked = units[f"sequences of {length}"]
                if "reference" in asked:
                    figures.setdefault(name, [])
                    figures[name] += judging.figures_of_row(
                        outputs, shape, first_row + row, InputPlan.from_json(asked["plan"]), f"sequence{draw}", asked,
                        precision=self.args.precision, atol=atol, rtol=rtol,
                    )  # fmt: skip
        server.forget()
        return {"cases": figures, "facts": facts}

    def end(self) -> None:
        self.server.forget()
