"""One contestant taken through the matrix: its worker, its verdict, and where it goes wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.parity.bisect.search import bisect
from bench.parity.certificate import Judgement
from bench.parity.inputs import kinds_of
from bench.parity.judging import inputs_file
from bench.parity.references import GENERATION
from bench.parity.verdict import Tolerance, badness, judge, judge_generation
from bench.preparation import Preparation
from bench.process import session
from bench.process.channel import Worker, WorkerError
from bench.process.pool import STRIKES
from bench.spec import Candidate, Shape
from exporters.store import Artifact

#: A broken case of at most this many tokens is bisected, where there is one.
BISECTED_TOKENS = 256


class Examination:
    """One contestant's run through the matrix, in a worker of its own that is started again where it dies."""

    def __init__(
        self, prepared: Preparation, contestant: Candidate, tolerance: Tolerance, artifact: Artifact | None = None
    ) -> None:
        self.prepared, self.contestant, self.tolerance = prepared, contestant, tolerance
        self.artifact = artifact or prepared.artifacts.get(contestant)
        self.worker: Worker | None = None
        self.lost = 0
        """Workers that died or hung since one last answered."""
        self.found = Judgement(contestant, "unjudged", "")

    def judgement(self) -> Judgement:
        """The verdict, figures and facts of this contestant."""
        if self.contestant in self.prepared.refused:
            refusal = self.prepared.refused[self.contestant]
            return self._unjudged(f"{refusal.status}: {refusal.reason}", refusal)
        if not self.prepared.classes[self.contestant].spec.computes_the_model:
            return self._unjudged(f"unsupported: {self.contestant.label} computes no model")
        assert self.artifact is not None
        files = {name: str(entry["sha256"]) for name, entry in self.artifact.files.items()}
        self.found.artifact = {
            "format": self.artifact.format, "checksum": self.artifact.checksum, "files": files,
        }  # fmt: skip
        try:
            self._start()
            for shape in self.prepared.grid.shapes:
                self._check_shape(shape)
            if self.prepared.judged_by.matrix.new_tokens:
                self._check_generation()
        except WorkerError as error:  # it never loaded; later failures cost the shape at hand
            return self._unjudged(f"{error.status}: {error.reason}", error)
        finally:
            self._kill()
        return self._conclude()

    def _unjudged(self, reason: str, error: WorkerError | None = None) -> Judgement:
        self.found.verdict, self.found.reason = "unjudged", reason
        self.found.failure = dict(error.details) if error else {}
        return self.found

    def _kill(self) -> None:
        if self.worker is not None:
            self.worker.kill()
            self.worker = None

    def _start(self) -> Worker:
        """The loaded worker; raises WorkerError where it does not load, or was lost too often."""
        if self.lost >= STRIKES:
            raise WorkerError("skipped", f"given up after {STRIKES} dead or hung workers in a row")
        if self.worker is None:
            grid, who = self.prepared.grid, self.contestant
            assert self.artifact is not None
            self.worker = session.start(
                who.backend, who.variant, who.precision, grid.device, self.artifact.path, grid.threads,
                self.prepared.store.root, python=self.prepared.python_of(who), tf32=grid.tf32,
            )  # fmt: skip
            self.found.versions = self.prepared.versions(who, self._ask({"op": "hello"})["versions"])
            try:
                self._ask({"op": "load"})
            except WorkerError as error:
                reason = f"{who.label} did not load: {error.reason}"
                raise WorkerError(error.status, reason, error.details, error.is_gone) from None
        return self.worker

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self.worker is not None
        try:
            reply = self.worker.request(request, self.prepared.timeout_seconds)
        except WorkerError as error:
            if error.is_gone or not request["op"].startswith("check"):
                self._kill()
                self.lost += 1
            raise
        if request["op"].startswith("check"):
            self.lost = 0
        return reply

    def _request(self, key: Shape | str) -> dict[str, Any] | str:
        """What the worker is told of reference and tolerance, or why there is no reference."""
        pair = self.prepared.judged_by.pair(self.contestant.precision, key)
        if isinstance(pair, str):
            return pair
        reference, yardstick = pair
        return {
            "reference": str(reference.path),
            "yardstick": str(yardstick.path),
            "atol": self.tolerance.atol,
            "rtol": self.tolerance.rtol,
        }

    def _check_shape(self, shape: Shape) -> None:
        request = self._request(shape)
        where = {"batch": shape.batch, "length": shape.length}
        if isinstance(request, str):
            self.found.cases.append({"name": str(shape), "verdict": "unjudged", "reason": request, **where})
            return
        try:
            self._start()
            plan = self.prepared.judged_by.inputs(shape)
            reply = self._ask({"op": "check", "inputs_plan": plan, **request})
        except WorkerError as error:
            reason = f"{error.status}: {error.reason}"
            entry = {"name": str(shape), "verdict": "unjudged", "reason": reason, **where, "failure": error.details}
            self.found.cases.append(entry)
            return
        self.found.facts = reply["facts"]
        for case, outputs in reply["cases"].items():
            ids, mask = kinds_of(case)
            name = f"{shape} {ids}, {mask}"
            self.found.cases.append({"name": name, **where, "ids": ids, "mask": mask, **judge(outputs, self.tolerance)})

    def _check_generation(self) -> None:
        request = self._request(GENERATION)
        if isinstance(request, str):
            self.found.generation.append({"name": GENERATION, "verdict": "unjudged", "reason": request})
            return
        try:
            self._start()
            reply = self._ask({"op": "check_generation", "inputs_plan": self.prepared.judged_by.prompts(), **request})
        except WorkerError as error:
            reason = f"{error.status}: {error.reason}"
            self.found.generation.append({"name": GENERATION, "verdict": "unjudged", "reason": reason})
            return
        for name, entry in reply["cases"].items():
            self.found.generation.append({"name": name, **judge_generation(entry, self.tolerance)})

    def _conclude(self) -> Judgement:
        """Order the cases and take the worst for the verdict."""
        self.found.cases.sort(key=badness, reverse=True)
        self.found.generation.sort(key=badness, reverse=True)
        entries = [*self.found.cases, *self.found.generation]
        if not entries:
            return self._unjudged("nothing was compared")
        worst = max(entries, key=badness)
        self.found.verdict, self.found.reason = worst["verdict"], f"{worst['name']}: {worst['reason']}"
        return self.found


def bisection_of(prepared: Preparation, judgement: Judgement) -> dict[str, Any]:
    """Where the outputs of a broken backend begin to differ, on its worst case of moderate size."""
    broken = [case for case in judgement.cases if case["verdict"] == "broken" and "ids" in case]
    if not broken or prepared.weights is None:
        return {
            "layer": None,
            "node": None,
            "notes": ["no case of the matrix is broken, so there is nothing to bisect"],
        }
    source = prepared.source
    if source.makes_inputs or len(source.outputs) > 1:
        note = "a module with inputs of its own or several outputs is not bisected"
        return {"layer": None, "node": None, "notes": [note]}
    case = next((case for case in broken if _tokens(case) <= BISECTED_TOKENS), min(broken, key=_tokens))
    pair = prepared.judged_by.pair(judgement.contestant.precision, Shape(case["batch"], case["length"]))
    assert not isinstance(pair, str)
    try:
        found = bisect(
            prepared.weights.path,
            judgement.contestant,
            prepared.artifacts[judgement.contestant].path,
            inputs_file(pair[0].path, f"{case['ids']}-{case['mask']}"),
            device=prepared.grid.device,
            threads=prepared.grid.threads,
            root=prepared.store.root,
            timeout_seconds=prepared.timeout_seconds,
            python=prepared.python_of(judgement.contestant),
        )
    except WorkerError as error:
        found = {"layer": None, "node": None, "notes": [f"the bisection failed: {error.reason}"]}
    return {"case": case["name"], **found}


def _tokens(case: Mapping[str, Any]) -> int:
    return int(case["batch"] * case["length"])
