"""Where a backend goes wrong: the first layer whose hidden state leaves tolerance, then the first value within it.

The arrays are computed, stored and compared by worker processes; this side only says which, a
chunk of values at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import backends
from bench.parity.bisect.findings import (
    STATE_AXES,
    Figures,
    Findings,
    Value,
    chunks,
    operations,
    told,
    values_between,
)
from bench.process import pool
from bench.process.channel import Worker
from bench.spec import Candidate

#: Float64 bytes of the values that are stored at once; a single value, or a state and the output, may be more.
CHUNK_BYTES = 256 * 2**20
REFERENCE_BYTES = 8
#: A nearest value that is further from a hidden state than this share of its RMS is no counterpart.
FAR = 0.5

#: What eager has and so can be compared with.
PRECISIONS = ("fp32", "fp16", "bf16")


def bisect(
    checkpoint: Path,
    candidate: Candidate,
    artifact: Path,
    inputs: Path,
    *,
    device: str,
    threads: int,
    root: Path,
    timeout_seconds: float,
    chunk_bytes: int = CHUNK_BYTES,
    python: Path | None = None,
) -> dict[str, Any]:
    """The first layer, and the first value within it, at which `candidate` leaves tolerance on the arrays in `inputs`.

    `checkpoint` and `artifact` are folders of the store under `root`; `inputs` is a .npz file of int64 arrays
    [batch, length] in the model's order; `python` is the interpreter of the candidate's own environment. Returns
    `layer` ({"index", "name", "rmse", "rmse_eager", "ratio"}), `node` (these without an index, and "op_type",
    "operations", "reads", "module"), both None where nothing leaves tolerance; `notes`, `layers_compared`,
    `values_compared`, and `chunk_bytes`, of the largest. Raises WorkerError.
    """
    if candidate.precision not in PRECISIONS:
        findings = Findings()
        findings.note(
            f"{candidate.precision} differs from eager in every layer by design; bisect {candidate.backend} in fp32"
        )
        return findings.to_json()
    with tempfile.TemporaryDirectory(prefix="bisect-") as folder:
        search = Search(Path(folder), checkpoint, candidate, inputs, timeout_seconds, chunk_bytes)
        try:
            search.start(artifact, device, threads, root, python)
            search.run()
        finally:
            search.close()
    return search.findings.to_json()


class Search:
    """Three workers (float64 eager, eager at the candidate's precision, the candidate) and a folder between them."""

    def __init__(
        self,
        folder: Path,
        checkpoint: Path,
        candidate: Candidate,
        inputs: Path,
        timeout_seconds: float,
        chunk_bytes: int,
    ) -> None:
        self.folder, self.checkpoint, self.inputs = folder, checkpoint.resolve(), str(inputs.resolve())
        self.candidate, self.precision = candidate, candidate.precision
        self.timeout_seconds, self.chunk_bytes = timeout_seconds, chunk_bytes
        self.program = str(folder / "program.pt2")
        self.surveyed: list[dict[str, Any]] = []
        self.findings = Findings()
        self.workers: list[Worker] = []

    def start(self, artifact: Path, device: str, threads: int, root: Path, python: Path | None) -> None:
        """Start the three at once, and load them one after another: loading holds the weights twice for a moment."""
        ours, weights = self.candidate, self.checkpoint
        for backend, variant, precision, place, path, interpreter in (
            ("eager", "default", "fp64", "cpu", weights, None),
            ("eager", "default", self.precision, device, weights, None),
            (ours.backend, ours.variant, self.precision, device, artifact.resolve(), python),
        ):
            self.workers.append(pool.start(backend, variant, precision, place, path, threads, root, python=interpreter))
            self.workers[-1].send({"op": "hello"})
        for process in self.workers:
            process.receive(self.timeout_seconds)
        for process in self.workers:
            process.request({"op": "load"}, self.timeout_seconds)
        self.reference, self.eager, self.ours = self.workers

    def close(self) -> None:
        """End the processes."""
        for process in self.workers:
            process.kill()

    def ask(self, process: Worker, function: str, **arguments: Any) -> dict[str, Any]:
        """The reply of a function of `bench.parity.bisect.calls`."""
        return process.request(_call(function, arguments), self.timeout_seconds)

    def path(self, name: str) -> str:
        """A file in the folder between the workers."""
        return str(self.folder / name)

    def run(self) -> None:
        """Compare the output, the layers, and what lies between the last good layer and the first bad one."""
        self.values: dict[str, list[Any]] = self.ask(self.ours, "inner_values")["values"]
        described = self.ask(self.reference, "inner_values")
        self.layers = list(described["values"])
        self._measure(described["outputs"])
        (_, unmarked), *_ = self.compared([self.output])
        states = self._counterparts()
        *compared, (_, marked) = self.compared([*states, self.output])
        self.findings.layers_compared = len(states)
        if not unmarked["leaves_tolerance"]:
            self.findings.note("the output is within tolerance on these inputs")
        elif not marked["leaves_tolerance"]:
            self.findings.note(
                "with hidden states as outputs the fault is gone: an optimisation that this undoes made it"
            )
        self._find_culprit(compared, marked["leaves_tolerance"])

    def _find_culprit(self, compared: Sequence[tuple[Value, Figures]], output_leaves: bool) -> None:
        """Put down the first layer out of tolerance and the first value within it.

        A layer whose values are all within tolerance had no state of its own in the runtime: the next one is tried.
        """
        states = [state for state, _ in compared]
        self.good = [state for state, figures in compared if not figures["leaves_tolerance"]]
        suspects: list[int | None] = [*self._bad_states(compared, output_leaves), *([None] if output_leaves else [])]
        first: Figures | None = None
        for suspect in suspects:
            if suspect is None and first is None:
                self.findings.note(
                    "every layer is within tolerance; the output leaves it behind the last, in norm or head"
                )
            self.findings.layer = None if suspect is None else self._layer(*compared[suspect])
            first = first or self.findings.layer
            if self._find_node(states[:suspect], None if suspect is None else states[suspect]):
                return
            if suspect is not None:
                self.findings.note(f"every value that makes {states[suspect].name} is within tolerance")
        self.findings.layer = first

    def _measure(self, outputs: Sequence[str]) -> None:
        """Take the sizes of a hidden state and of the output from a call on the inputs."""
        (name,) = outputs
        first = self.layers[0]
        shapes = self.ask(self.reference, "measure_inner", inputs=self.inputs, names=[first, name])["shapes"]
        batch, length, self.width = shapes[first]
        self.tokens = batch * length
        self.state_bytes = self.tokens * self.width * REFERENCE_BYTES
        self.output = Value(name, name, STATE_AXES, self.tokens * shapes[name][-1] * REFERENCE_BYTES)

    def _counterparts(self) -> list[Value]:
        """The hidden states that the candidate has, each with its name there or that of the value most like it."""
        if set(self.layers) <= set(self.values):
            return [Value(name, name, STATE_AXES, self.state_bytes) for name in self.layers]
        asked = {"inputs": self.inputs, "width": self.width}
        states = self.path("states.npz")
        self.ask(self.reference, "sample_inner", names=self.layers, path=states, **asked)
        alike = self.ask(self.ours, "probe_inner", names=list(self.values), **asked)["names"]
        at_once = max(1, self.chunk_bytes // self.state_bytes)
        candidates = []
        for start in range(0, len(alike), at_once):
            candidates.append(self.path(f"candidates-{start}.npz"))
            names = alike[start : start + at_once]
            self.ask(self.ours, "sample_inner", names=names, path=candidates[-1], **asked)
        nearest = self.ask(self.reference, "liken_inner", states=states, candidates=candidates)["nearest"]
        if far := [name for name in self.layers if name not in nearest or nearest[name][1] > FAR]:
            self.findings.note(f"no value of the runtime is near {', '.join(far)}: fused away, or far off")
        return [Value(name, nearest[name][0], STATE_AXES, self.state_bytes) for name in self.layers if name in nearest]

    def _bad_states(self, compared: Sequence[tuple[Value, Figures]], output_leaves: bool) -> list[int]:
        """Indices of the states out of tolerance.

        Where states were found by likeness, those that a later state recovers from were not found rather than wrong.
        """
        bad = [index for index, (_, figures) in enumerate(compared) if figures["leaves_tolerance"]]
        if all(value.ours == value.name for value, _ in compared):
            return bad
        last_good = max((index for index in range(len(compared)) if index not in bad), default=-1)
        if not output_leaves:
            last_good = len(compared)
        if hidden := [compared[index][0].name for index in bad if index < last_good]:
            self.findings.note(f"the runtime has no value that is {', '.join(hidden)}: fused away")
        return [index for index in bad if index > last_good]

    def _layer(self, state: Value, figures: Figures) -> Figures:
        """What is told of a layer whose state is out of tolerance."""
        index = self.layers.index(state.name) - 1
        if index < 0:
            self.findings.note("what enters the first layer is out of tolerance already: look at the embeddings")
        return {"index": index, "name": "embeddings" if index < 0 else state.name, **told(figures)}

    def _find_node(self, good: Sequence[Value], bad: Value | None) -> bool:
        """Find the first value out of tolerance that `bad`, or the output, is made of and no good state is.

        False where values were compared and all are within tolerance.
        """
        made_of = backends.load_class(self.candidate.backend).spec.format
        if made_of != "onnx":
            self.findings.note(
                f"a {made_of} artifact does not name its values as an ONNX file does: no node is searched"
            )
            return True
        self._survey()
        if not self._names_agree():
            self.findings.note("the ONNX graph does not bear the names of our own export, so no node is searched")
            return True
        between = values_between(self.surveyed, [state.name for state in good], bad.name if bad else None)
        wanted = [
            Value(entry["name"], ours, tuple(entry["axes"]), entry["bytes"])
            for entry in between
            if (ours := self._name_of(entry)) in self.values
        ]
        if len(wanted) < len(between):
            self.findings.note(
                f"{len(between) - len(wanted)} of the {len(between)} values between have no counterpart by name "
                "in the ONNX graph"
            )
        known = {entry["name"] for entry in self.surveyed} & set(self.values)
        modules = {entry["name"]: entry["module"] for entry in self.surveyed}
        for value, figures in self.compared(wanted, self.program):
            self.findings.values_compared += 1
            if figures["leaves_tolerance"]:
                node = operations(self.values, value.ours, known)
                self.findings.node = {"name": value.ours, "module": modules[value.name], **node, **told(figures)}
                return True
        return not wanted

    def _name_of(self, entry: dict[str, Any]) -> str:
        """What the ONNX graph calls a value of the program; its output has the name of the model's."""
        return self.output.name if entry["is_output"] else str(entry["name"])

    def _names_agree(self) -> bool:
        """True where the graph's names mean what the program's do: those of the good states, and most others."""
        for state in self.good:
            aliases = {self._name_of(entry) for entry in self.surveyed if state.name in entry["states"]}
            if aliases and state.ours not in aliases:
                return False
        shared = sum(entry["name"] in self.values for entry in self.surveyed)
        return 2 * shared >= len(self.surveyed)

    def _survey(self) -> None:
        """Export the program that the ONNX file was translated from and list its values, once."""
        if self.surveyed:
            return
        self.ask(self.reference, "save_program", precision=self.precision, path=self.program)
        asked = {"path": self.program, "inputs": self.inputs, "layers": self.layers, "width": self.width}
        self.surveyed = self.ask(self.reference, "survey_program", **asked)["values"]

    def compared(self, values: Sequence[Value], program: str | None = None) -> Iterator[tuple[Value, Figures]]:
        """Each value with its figures, chunk by chunk; the reference's are hidden states, or values of `program`."""
        paths = {name: self.path(f"{name}.npz") for name in ("ours", "reference", "eager")}
        for chunk in chunks(values, self.chunk_bytes):
            names = [value.name for value in chunk]
            ours = {"names": list(dict.fromkeys(value.ours for value in chunk)), "path": paths["ours"]}
            run, given = ("run_program", {"program": program}) if program else ("run_inner", {})
            requests = [
                (self.ours, "run_inner", ours),
                *((eager, run, {**given, "names": names, "path": paths[name]}) for eager, name in self._eagers()),
            ]
            for process, function, arguments in requests:
                process.send(_call(function, {**arguments, "inputs": self.inputs}))
            changed, *_ = [process.receive(self.timeout_seconds) for process, _, _ in requests]
            self._note_changes(changed, len(chunk))
            self.findings.chunk_bytes = max(self.findings.chunk_bytes, sum(value.bytes for value in chunk))
            described = [value.to_json() for value in chunk]
            asked = {"inputs": self.inputs, "values": described, "precision": self.precision, **paths}
            yield from zip(chunk, self.ask(self.reference, "compare_inner", **asked)["figures"], strict=True)

    def _eagers(self) -> list[tuple[Worker, str]]:
        return [(self.reference, "reference"), (self.eager, "eager")]

    def _note_changes(self, changed: Mapping[str, Any], marked: int) -> None:
        for note in changed["notes"]:
            self.findings.note(note)
        for operator, count in changed["undone"].items():
            self.findings.undone[operator] = max(count, self.findings.undone.get(operator, 0))
        self.findings.most_marked = max(marked, self.findings.most_marked)


def _call(function: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A request for a function of `bench.parity.bisect.calls`."""
    return {"op": "call", "function": f"bench.parity.bisect.calls:{function}", "arguments": dict(arguments)}
