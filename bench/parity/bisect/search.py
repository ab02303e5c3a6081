"""Where a backend goes wrong: the first layer whose hidden state leaves tolerance, then the first value within it.

The arrays are computed, stored and compared by worker processes; this side only says which, a
chunk of values at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import backends
from bench.parity.bisect.inner import STATE_AXES
from bench.process import pool
from bench.process.channel import Worker
from bench.spec import Candidate

Figures = dict[str, Any]
#: Float64 bytes of the values that are stored at once; a single value, or a state and the output, may be more.
CHUNK_BYTES = 256 * 2**20
REFERENCE_BYTES = 8
#: A nearest value that is further from a hidden state than this share of its RMS is no counterpart.
FAR = 0.5
#: What eager has and so can be compared with.
PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Value:
    """One value to compare: its name in the reference and in the candidate, and what its axes count."""

    name: str
    ours: str
    axes: tuple[str | None, ...]
    bytes: int
    """In float64."""


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
    with tempfile.TemporaryDirectory(prefix="bisect-") as folder:
        search = Search(Path(folder), candidate, inputs, timeout_seconds, chunk_bytes)
        try:
            if candidate.precision in PRECISIONS:
                search.start(checkpoint, artifact, device, threads, root, python)
                search.run()
            else:
                search.note(
                    f"{candidate.precision} differs from eager in every layer by design; bisect {candidate.backend} in "
                    "fp32"
                )
        finally:
            search.close()
    return search.found | {"notes": list(search.notes)}


class Search:
    """Three workers (float64 eager, eager at the candidate's precision, the candidate) and a folder between them."""

    def __init__(
        self, folder: Path, candidate: Candidate, inputs: Path, timeout_seconds: float, chunk_bytes: int
    ) -> None:
        self.folder, self.inputs, self.candidate = folder, str(inputs.resolve()), candidate
        self.timeout_seconds, self.most_bytes = timeout_seconds, chunk_bytes
        self.found: dict[str, Any] = {
            "layer": None, "node": None, "layers_compared": 0, "values_compared": 0, "chunk_bytes": 0,
        }  # fmt: skip
        self.notes: dict[str, None] = {}
        self.undone: dict[str, int] = {}
        """Fused operators that ran fewer times with values marked as outputs: the largest count of any chunk."""
        self.most_marked = 0
        self.surveyed: list[dict[str, Any]] = []
        self.workers: list[Worker] = []

    def start(
        self, checkpoint: Path, artifact: Path, device: str, threads: int, root: Path, python: Path | None
    ) -> None:
        """Start the three at once, and load them one after another: loading holds the weights twice for a moment."""
        ours, weights = self.candidate, checkpoint.resolve()
        for backend, variant, precision, place, path, interpreter in (
            ("eager", "default", "fp64", "cpu", weights, None),
            ("eager", "default", ours.precision, device, weights, None),
            (ours.backend, ours.variant, ours.precision, device, artifact.resolve(), python),
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

    def note(self, text: str) -> None:
        """Add a sentence for the user, once."""
        self.notes[text] = None

    def ask(self, process: Worker, function: str, **arguments: Any) -> dict[str, Any]:
        """The reply of a function of `bench.parity.bisect.inner`."""
        return process.request(_call(function, arguments), self.timeout_seconds)

    def path(self, name: str) -> str:
        """A file in the folder between the workers."""
        return str(self.folder / name)

    def run(self) -> None:
        """Compare the output, the layers, and what lies between the last good layer and the first bad one."""
        self.values: dict[str, list[Any]] = self.ask(self.ours, "describe")["values"]
        described = self.ask(self.reference, "describe")
        self.layers = list(described["values"])
        (output,) = described["outputs"]
        first = self.layers[0]
        shapes = self.ask(self.reference, "measure", inputs=self.inputs, names=[first, output])["shapes"]
        batch, length, self.width = shapes[first]
        self.state_bytes = batch * length * self.width * REFERENCE_BYTES
        self.output = Value(output, output, STATE_AXES, batch * length * shapes[output][-1] * REFERENCE_BYTES)
        (_, unmarked), *_ = self._compared([self.output])
        states = self._counterparts()
        *compared, (_, marked) = self._compared([*states, self.output])
        self.found["layers_compared"] = len(states)
        if not unmarked["leaves_tolerance"]:
            self.note("the output is within tolerance on these inputs")
        elif not marked["leaves_tolerance"]:
            self.note("with hidden states as outputs the fault is gone: an optimisation that this undoes made it")
        self._find_culprit(compared, marked["leaves_tolerance"])
        if self.undone:
            counts = ", ".join(f"{count} {operator}" for operator, count in self.undone.items())
            self.note(
                f"marking {self.most_marked} values as outputs undid {counts}: what was compared ran without them"
            )

    def _find_culprit(self, compared: Sequence[tuple[Value, Figures]], output_leaves: bool) -> None:
        """Put down the first layer out of tolerance and the first value within it.

        A layer whose values are all within tolerance had no state of its own in the runtime: the next one is tried.
        """
        states = [state for state, _ in compared]
        self.good = [state for state, figures in compared if not figures["leaves_tolerance"]]
        bad, fused = bad_states(compared, output_leaves)
        if fused:
            self.note(f"the runtime has no value that is {', '.join(fused)}: fused away")
        first: Figures | None = None
        for suspect in bad:
            layer = self._layer(*compared[suspect])
            first = first or layer
            self.found["layer"] = layer
            if self._find_node(states[:suspect], states[suspect]):
                return
            self.note(f"every value that makes {states[suspect].name} is within tolerance")
        if output_leaves:
            if first is None:
                self.note("every layer is within tolerance; the output leaves it behind the last, in norm or head")
            self.found["layer"] = None
            if self._find_node(states, None):
                return
        self.found["layer"] = first

    def _counterparts(self) -> list[Value]:
        """The hidden states that the candidate has, each with its name there or that of the value most like it."""
        if set(self.layers) <= set(self.values):
            return [Value(name, name, STATE_AXES, self.state_bytes) for name in self.layers]
        states, alike = self.path("states.npz"), self.path("alike.npz")
        for process, names, path in ((self.reference, self.layers, states), (self.ours, list(self.values), alike)):
            at_once = max(1, self.most_bytes // self.state_bytes)
            asked = {"inputs": self.inputs, "names": names, "path": path, "width": self.width, "at_once": at_once}
            self.ask(process, "sample", **asked)
        nearest = self.ask(self.reference, "liken", states=states, candidates=alike)["nearest"]
        if far := [name for name in self.layers if name not in nearest or nearest[name][1] > FAR]:
            self.note(f"no value of the runtime is near {', '.join(far)}: fused away, or far off")
        return [Value(name, nearest[name][0], STATE_AXES, self.state_bytes) for name in self.layers if name in nearest]

    def _layer(self, state: Value, figures: Figures) -> Figures:
        """What is told of a layer whose state is out of tolerance."""
        index = self.layers.index(state.name) - 1
        if index < 0:
            self.note("what enters the first layer is out of tolerance already: look at the embeddings")
        return {"index": index, "name": "embeddings" if index < 0 else state.name, **_told(figures)}

    def _find_node(self, good: Sequence[Value], bad: Value | None) -> bool:
        """Find the first value out of tolerance that `bad`, or the output, is made of and no good state is.

        False where values were compared and all are within tolerance.
        """
        made_of = backends.load_class(self.candidate.backend).spec.format
        if made_of != "onnx":
            self.note(f"a {made_of} artifact does not name its values as an ONNX file does: no node is searched")
            return True
        program = self.path("program.pt2")
        if not self.surveyed:  # the program that the ONNX file was translated from
            self.ask(self.reference, "save_program", precision=self.candidate.precision, path=program)
            asked = {"program": program, "inputs": self.inputs, "layers": self.layers, "width": self.width}
            self.surveyed = self.ask(self.reference, "survey", **asked)["values"]
        if not self._names_agree():
            self.note("the ONNX graph does not bear the names of our own export, so no node is searched")
            return True
        between = values_between(self.surveyed, [state.name for state in good], bad.name if bad else None)
        wanted = [
            Value(entry["name"], ours, tuple(entry["axes"]), entry["bytes"])
            for entry in between
            if (ours := self._name_of(entry)) in self.values
        ]
        if len(wanted) < len(between):
            self.note(
                f"{len(between) - len(wanted)} of the {len(between)} values between have no counterpart by name "
                "in the ONNX graph"
            )
        known = {entry["name"] for entry in self.surveyed} & set(self.values)
        modules = {entry["name"]: entry["module"] for entry in self.surveyed}
        for value, figures in self._compared(wanted, program):
            self.found["values_compared"] += 1
            if figures["leaves_tolerance"]:
                node = operations(self.values, value.ours, known)
                self.found["node"] = {"name": value.ours, "module": modules[value.name], **node, **_told(figures)}
                return True
        return not wanted

    def _name_of(self, entry: Mapping[str, Any]) -> str:
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

    def _compared(self, values: Sequence[Value], program: str | None = None) -> Iterator[tuple[Value, Figures]]:
        """Each value with its figures, chunk by chunk; the reference's are hidden states, or values of `program`."""
        paths = {name: self.path(f"{name}.npz") for name in ("ours", "reference", "eager")}
        for chunk in chunks(values, self.most_bytes):
            names, ours = [value.name for value in chunk], list(dict.fromkeys(value.ours for value in chunk))
            for process, name in ((self.ours, "ours"), (self.reference, "reference"), (self.eager, "eager")):
                taken = {"names": ours} if name == "ours" else {"names": names, "program": program}
                process.send(_call("take", {**taken, "inputs": self.inputs, "path": paths[name]}))
            changed, *_ = [one.receive(self.timeout_seconds) for one in (self.ours, self.reference, self.eager)]
            self.notes |= dict.fromkeys(changed["notes"])
            for operator, count in changed["undone"].items():
                self.undone[operator] = max(count, self.undone.get(operator, 0))
            self.most_marked = max(len(chunk), self.most_marked)
            self.found["chunk_bytes"] = max(self.found["chunk_bytes"], sum(value.bytes for value in chunk))
            asked = {"inputs": self.inputs, "values": list(map(asdict, chunk)), "precision": self.candidate.precision}
            yield from zip(chunk, self.ask(self.reference, "compare", **asked, **paths)["figures"], strict=True)


def _call(function: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A request for a function of `bench.parity.bisect.inner`."""
    return {"op": "call", "function": f"bench.parity.bisect.inner:{function}", "arguments": dict(arguments)}


def _told(figures: Mapping[str, Any]) -> Figures:
    """What of a value's figures goes into the result."""
    return {name: value for name, value in figures.items() if name != "leaves_tolerance"}


def bad_states(compared: Sequence[tuple[Value, Figures]], output_leaves: bool) -> tuple[list[int], list[str]]:
    """Indices of the states out of tolerance, and names of those that the runtime does not have.

    If states were found by likeness, those that a later state recovers from were not found rather than wrong.
    """
    bad = [index for index, (_, figures) in enumerate(compared) if figures["leaves_tolerance"]]
    if all(value.ours == value.name for value, _ in compared):
        return bad, []
    last_good = max((index for index in range(len(compared)) if index not in bad), default=-1)
    if not output_leaves:
        last_good = len(compared)
    fused = [compared[index][0].name for index in bad if index < last_good]
    return [index for index in bad if index > last_good], fused


def chunks(values: Sequence[Value], most_bytes: int) -> Iterator[list[Value]]:
    """`values` in order, as many at a time as `most_bytes` hold; the last is never alone where there are others.

    The last is the output, and alone it would be computed with nothing else marked.
    """
    chunk: list[Value] = []
    for index, value in enumerate(values):
        is_last = index == len(values) - 1
        if chunk and not is_last and sum(entry.bytes for entry in chunk) + value.bytes > most_bytes:
            yield chunk
            chunk = []
        chunk.append(value)
    if chunk:
        yield chunk


def values_between(surveyed: Sequence[Mapping[str, Any]], good: Sequence[str], bad: str | None) -> list[dict[str, Any]]:
    """Values of a program that the state `bad` (None: the output) is computed from and no state of `good` is."""
    needed: dict[str, set[str]] = {}
    for entry in surveyed:
        needed[entry["name"]] = {entry["name"]}.union(*(needed.get(name, set()) for name in entry["inputs"]))
    is_target = [entry["is_output"] if bad is None else bad in entry["states"] for entry in surveyed]
    wanted = set().union(*(needed[entry["name"]] for entry, is_one in zip(surveyed, is_target, strict=True) if is_one))
    wanted = wanted or set(needed)  # a state that the program does not have: all that no good state needs
    settled = set().union(*(needed[entry["name"]] for entry in surveyed if set(entry["states"]) & set(good)))
    return [dict(entry) for entry in surveyed if entry["name"] in wanted - settled]


def operations(values: Mapping[str, Sequence[Any]], name: str, known: set[str]) -> dict[str, Any]:
    """The operation that makes value `name`, and all back to values of `known` names, with what these read.

    `values` are [operation, inputs] by name. `reads` are weights and other constants and inputs of the graph.
    """
    taken: dict[str, None] = {}
    reads: dict[str, None] = {}

    def walk(value: str) -> None:
        for source in values[value][1]:
            if source not in values:
                reads[source] = None
            elif source not in known and source not in taken:
                walk(source)
        taken[value] = None

    walk(name)
    made = list(dict.fromkeys(values[value][0] for value in taken))
    return {"op_type": values[name][0], "operations": made, "reads": list(reads)}
