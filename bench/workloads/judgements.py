"""What a parity run says of each candidate: its verdict, every case worst first, and where a broken one goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from bench.columns import DASH, Section, Table
from bench.parity import judging
from bench.parity.inputs import OWN, kinds_of
from bench.parity.verdict import COARSER_FACTOR, LOCAL_FACTOR, Tolerance, badness, told
from bench.run.columns import PARITY_STYLES
from bench.run.record import SAME_MODEL, Record, Run
from bench.spec import Candidate

if TYPE_CHECKING:
    from bench.run.preparation import Preparation

#: Cases of each candidate that are printed; all are in the JSON.
PRINTED_CASES = 5
#: A broken case of at most this many tokens is bisected, if there is one.
BISECTED_TOKENS = 256
#: Columns beside case and verdict: the figure, and how it is shown. "limit": largest ratio to eager's error as a share
#: of what is allowed; "× eager": RMSE over eager's.
SHOWN: dict[str, tuple[str, Callable[[float], str]]] = {
    "limit": ("share_of_limit", lambda share: f"{share:.0%}" if share < 10 else ">999%"),
    "× eager": ("rmse_ratio", "{:.3g}".format),
    "max |Δ|": ("max_abs_error", "{:.1e}".format),
    "p99 |Δ|": ("p99_abs_error", "{:.1e}".format),
    "cosine": ("min_cosine", "{:.6f}".format),
    "KL": ("kl_mean", "{:.1e}".format),
    "top-1": ("top1_agreement", lambda share: f"{100 * share:.3g}%"),
    "top-5": ("top_k_overlap", lambda share: f"{100 * share:.3g}%"),
}
OF_HIDDEN_STATES, OF_LOGITS = ("p99 |Δ|", "cosine"), ("KL", "top-1", "top-5")


@dataclass(frozen=True)
class Judgement:
    """What was found of one candidate."""

    candidate: Candidate
    verdict: str
    reason: str
    cases: list[dict[str, Any]] = field(default_factory=list)
    """Worst first: `name`, `verdict`, `reason`, and the figures of `metrics.compare`."""
    generation: list[dict[str, Any]] = field(default_factory=list)
    """For each prompt and way of generating: the tokens, where they leave the reference's, figures of forced steps."""
    artifact: dict[str, Any] = field(default_factory=dict)
    """`format`, `key`, `checksum` and `files` (name to SHA-256) of what was loaded."""
    bisection: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """`onnx fp32`."""
        return f"{self.candidate.label} {self.candidate.precision}"

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def judgements(run: Run) -> list[Judgement]:
    """One for each candidate, in their order."""
    return [judgement(run, candidate) for candidate in run.candidates]


def judgement(run: Run, candidate: Candidate) -> Judgement:
    """The worst of a candidate's cells; a cell that failed is unjudged."""
    found: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for record in run.records:
        if record.candidate == candidate:
            found[bool(record.point.new_tokens)].extend(_entries(record))
    cases, generation = (sorted(entries, key=badness, reverse=True) for entries in found.values())
    place = str(run.candidates.index(candidate))
    artifact, bisection = (run.notes.get(name, {}).get(place, {}) for name in ("artifacts", "bisections"))
    entries = [*cases, *generation]
    worst = max(entries, key=badness, default={"verdict": "unjudged", "reason": "nothing was compared"})
    if worst["verdict"] == "unjudged" and len({(one["verdict"], one["reason"]) for one in entries}) <= 1:
        return Judgement(candidate, "unjudged", worst["reason"], artifact=artifact)
    reason = f"{worst['name']}: {worst['reason']}"
    return Judgement(candidate, worst["verdict"], reason, cases, generation, artifact, bisection)


def _entries(record: Record) -> Iterator[dict[str, Any]]:
    """The judged cases of a cell."""
    point, parity = record.point, record.parity
    name = "generation" if point.new_tokens else str(point)
    if record.status != "ok":
        yield {"name": name, "verdict": "unjudged", "reason": f"{record.status}: {record.reason}"}
    elif "cases" not in parity:
        yield {"name": name, "verdict": parity["verdict"], "reason": parity["reason"]}
    for case, figures in parity.get("cases", {}).items():
        if point.new_tokens:
            yield {"name": case, **figures}
        else:
            ids, mask = kinds_of(case)
            where = {"batch": point.batch, "length": point.length, "ids": ids, "mask": mask}
            yield {"name": f"{point} {ids}, {mask}", **where, **figures}


def bisection_of(found: Judgement, prepared: Preparation) -> dict[str, Any]:
    """Where the outputs of a broken candidate begin to differ, on its worst case of moderate size."""
    from bench.parity.bisect.search import bisect
    from bench.process.channel import WorkerError

    source, candidate, setting = prepared.source, found.candidate, prepared.options
    broken = [case for case in found.cases if case["verdict"] == "broken" and "ids" in case]
    broken.sort(key=lambda case: max(BISECTED_TOKENS, case["batch"] * case["length"]))  # else the worst comes first
    unbisected = {"layer": None, "node": None}
    if not broken or prepared.weights is None:
        return unbisected | {"notes": ["no case of the matrix is broken, so there is nothing to bisect"]}
    if source.makes_inputs or len(source.outputs) > 1:
        return unbisected | {"notes": ["a module with inputs of its own or several outputs is not bisected"]}
    case = broken[0]
    pair = prepared.references.pair(candidate.precision, f"{case['batch']}×{case['length']}")
    if isinstance(pair, str):
        return unbisected | {"notes": [pair]}
    there = prepared.elsewhere.get(candidate)
    try:
        where = bisect(
            prepared.weights.path, candidate, prepared.artifacts[candidate].path,
            judging.inputs_file(pair[0].path, f"{case['ids']}-{case['mask']}"),
            device=setting.kind, threads=setting.settled_threads, root=prepared.store.root,
            timeout_seconds=setting.timeout, python=there.python if there else None,
        )  # fmt: skip
    except WorkerError as error:
        where = unbisected | {"notes": [f"the bisection failed: {error.reason}"]}
    return {"case": case["name"], **where}


def exit_code(verdicts: Sequence[str]) -> int:
    """parity.md rule 10: 3 if one is broken, 0 if all are equivalent or better, else 1."""
    if "broken" in verdicts:
        return 3
    return 0 if verdicts and set(verdicts) <= set(SAME_MODEL) else 1


def blind_spots(found: Sequence[Judgement]) -> list[str]:
    """What rounding hides at a lower precision, one sentence each; nothing at fp32."""
    lines = []
    for one in found:
        precision = one.candidate.precision
        cases = [case for case in one.cases if case.get("rms_reference") and case.get("rmse_eager")]
        if precision != "fp32" and cases:
            share = max(case["rmse_eager"] / case["rms_reference"] for case in cases)
            lines.append(
                f"at {precision} eager's own rounding is up to {share:.2%} of the reference's RMS: a fault of about "
                "that size cannot be seen; judge the same export at fp32 too"
            )
    return list(dict.fromkeys(lines))


# What is said of it.


def heading(run: Run, tolerances: Mapping[str, Tolerance]) -> Iterator[str]:
    """What was judged, on what inputs, and by what limits."""
    points = [point for point in run.workload.points() if not point.new_tokens]
    options: Any = run.options
    ids = "inputs by the module itself" if options.ids == (OWN,) else f"ids {', '.join(options.ids)}"
    if options.shapes:
        sizes = ", ".join(map(str, points))
    else:
        batches, lengths = (dict.fromkeys(str(getattr(one, axis)) for one in points) for axis in ("batch", "length"))
        sizes = f"batch {', '.join(batches)} × length {', '.join(lengths)}"
    yield f"against eager in float64: {sizes}; {ids}; masks {', '.join(options.masks)}; seed {options.seed}"
    for precision, tolerance in tolerances.items():
        yield _limits(precision, tolerance, run.model.task == "lm")


def _limits(precision: str, tolerance: Tolerance, has_logits: bool) -> str:
    """One line on what a precision may differ by."""
    factor = tolerance.eager_factor
    coarser = f", or coarser rounding alone up to {COARSER_FACTOR:g}×" if tolerance.rounding else ""
    line = (
        f"{precision}: equivalent up to {factor:g}× eager's own RMSE, {LOCAL_FACTOR * factor:g}× at one token or unit, "
        f"or each error within {told(tolerance)}{coarser}; "
    )
    if not tolerance.has_budget:
        return line + "nothing may be lost"
    budget = [] if tolerance.max_rms_share is None else [f"RMSE {tolerance.max_rms_share:.3g} of the reference's RMS"]
    if has_logits:
        budget += [] if tolerance.max_kl is None else [f"mean KL {tolerance.max_kl:g}"]
        budget += [] if tolerance.min_top1 is None else [f"top-1 {tolerance.min_top1:.3g} beside near-ties"]
    return f"{line}lossy up to {', '.join(budget)}"


def sections(run: Run, remarks: Sequence[str]) -> Iterator[Section]:
    """One for each candidate, then notes."""
    found = judgements(run)
    shown = ["limit", "× eager", "max |Δ|", *(OF_LOGITS if run.model.task == "lm" else OF_HIDDEN_STATES)]
    for one in found:
        is_told = one.verdict not in ("original", "exact")
        lines = [f"worst: {one.reason}" if one.cases else one.reason] if is_told else []
        rows = tuple(
            (case["name"], case["verdict"], *(_shown(case, *SHOWN[title]) for title in shown))
            for case in one.cases[:PRINTED_CASES]
        )
        table = Table(("case", "verdict", *shown), rows, (True, True, *[False] * len(shown)))
        items = [*_more(one), *_generated(one), *_bisected(one)]
        style = PARITY_STYLES.get(one.verdict, "")
        yield Section(f"{one.label}: {one.verdict}", lines, table, items, style=style)
    yield Section("Notes", items=[*remarks, *blind_spots(found)])


def _shown(case: Mapping[str, Any], figure: str, show: Callable[[float], str]) -> str:
    """A figure of a case; a dash if it was not measured."""
    return DASH if case.get(figure) is None else show(case[figure])


def _more(one: Judgement) -> Iterator[str]:
    """How the cases that are not printed came out, and the flips of the most likely token."""
    rest = [case["verdict"] for case in one.cases[PRINTED_CASES:]]
    if rest:
        counts = ", ".join(f"{rest.count(verdict)} {verdict}" for verdict in dict.fromkeys(rest))
        yield f"{len(rest)} more: {counts}"
    judged = [case for case in one.cases if "top1_n" in case]
    if judged:
        positions = sum(case["top1_n"] for case in judged)
        flips, near = (sum(case[name] for case in judged) for name in ("top1_flips", "top1_near_ties"))
        yield f"top-1: {flips} of {positions} positions flip" + (f", {near} of them near-ties" if flips else "")


def _generated(one: Judgement) -> Iterator[str]:
    """One line for each prompt and way of generating."""
    for entry in one.generation:
        line = f"generation, {entry['name']}: {entry['verdict']}"
        if "steps" in entry:
            at = entry["diverges_at"]
            if at is None:
                line += f"; all {entry['steps']} greedy tokens are the reference's"
            else:
                how = "a near-tie ({:.1e} apart)" if entry["is_near_tie"] else "{:.1e} below the reference's own"
                line += f"; token {at + 1} of {entry['steps']} is another, {how.format(entry['margin'])}"
            if "top1_n" in entry:
                line += f"; forced: top-1 {entry['top1_agreement']:.1%} of {entry['top1_n']}, KL {entry['kl_mean']:.1e}"
        yield line if entry["verdict"] in SAME_MODEL else f"{line}; {entry['reason']}"


def _bisected(one: Judgement) -> Iterator[str]:
    """Where it goes wrong, as far as that was looked for."""
    found = one.bisection
    if "layers_compared" in found:
        counts = f"{found['layers_compared']} hidden states and {found['values_compared']} values"
        yield f"bisection of {found['case']}: {counts} compared"
    elif "case" in found:
        yield f"bisection of {found['case']}"
    if (layer := found.get("layer")) is not None:
        yield f"first layer out of tolerance: {layer['name']}{_times_eager(layer)}"
    if (node := found.get("node")) is not None:
        made = ", ".join(node.get("operations") or [node["op_type"]])
        reads = f" reading {', '.join(node['reads'])}" if node.get("reads") else ""
        at = f" of {node['module']}" if node.get("module") else ""
        yield f"first node out of tolerance: {node['name']} ({made}{reads}){at}{_times_eager(node)}"
    yield from (f"note: {note}" for note in found.get("notes", ()))


def _times_eager(figures: Mapping[str, Any]) -> str:
    ratio = figures.get("ratio")
    return "" if ratio is None else f", RMSE {ratio:.3g} times eager's"
