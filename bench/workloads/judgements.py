"""What a parity run says of each candidate: its verdict, every case worst first, and where a broken one goes wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from bench.columns import DASH, Section, Table
from bench.parity import judging
from bench.parity.inputs import OWN, kinds_of
from bench.parity.verdict import LOCAL_FACTOR, Tolerance, badness, told
from bench.run.columns import PARITY_STYLES
from bench.run.record import SAME_MODEL, Record, Run
from bench.spec import Candidate

if TYPE_CHECKING:
    from bench.run.preparation import Preparation

#: Cases of each candidate that are printed; all are in the JSON.
PRINTED_CASES = 5
#: A broken case of at most this many tokens is bisected, if there is one.
BISECTED_TOKENS = 256
#: "limit": largest ratio to eager's error as a share of what is allowed; "× eager": RMSE over eager's.
TITLES = ("case", "verdict", "limit", "× eager", "max |Δ|")
TITLES_OF_HIDDEN_STATES = ("p99 |Δ|", "cosine")
TITLES_OF_LOGITS = ("KL", "top-1", "top-5")


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


def judgement(run: Run, candidate: Candidate) -> Judgement:
    """The worst of a candidate's cells; a cell that failed is unjudged."""
    cases: list[dict[str, Any]] = []
    generation: list[dict[str, Any]] = []
    for record in run.records:
        if record.candidate == candidate:
            (generation if record.point.new_tokens else cases).extend(_entries(record))
    cases.sort(key=badness, reverse=True)
    generation.sort(key=badness, reverse=True)
    place = str(run.candidates.index(candidate))
    noted = {name: run.notes.get(name, {}).get(place, {}) for name in ("artifacts", "bisections")}
    entries = [*cases, *generation]
    if not entries:
        return Judgement(candidate, "unjudged", "nothing was compared", artifact=noted["artifacts"])
    worst = max(entries, key=badness)
    if worst["verdict"] == "unjudged" and len({(one["verdict"], one["reason"]) for one in entries}) == 1:
        return Judgement(candidate, "unjudged", worst["reason"], artifact=noted["artifacts"])
    reason = f"{worst['name']}: {worst['reason']}"
    return Judgement(candidate, worst["verdict"], reason, cases, generation, noted["artifacts"], noted["bisections"])


def judgements(run: Run) -> list[Judgement]:
    """One for each candidate, in their order."""
    return [judgement(run, candidate) for candidate in run.candidates]


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

    broken = [case for case in found.cases if case["verdict"] == "broken" and "ids" in case]
    source, candidate, setting = prepared.source, found.candidate, prepared.options
    if not broken or prepared.weights is None:
        return _not_bisected("no case of the matrix is broken, so there is nothing to bisect")
    if source.makes_inputs or len(source.outputs) > 1:
        return _not_bisected("a module with inputs of its own or several outputs is not bisected")
    case = next((one for one in broken if _tokens(one) <= BISECTED_TOKENS), min(broken, key=_tokens))
    pair = prepared.references.pair(candidate.precision, f"{case['batch']}×{case['length']}")
    if isinstance(pair, str):
        return _not_bisected(pair)
    there = prepared.elsewhere.get(candidate)
    try:
        where = bisect(
            prepared.weights.path, candidate, prepared.artifacts[candidate].path,
            judging.inputs_file(pair[0].path, f"{case['ids']}-{case['mask']}"),
            device=setting.kind, threads=setting.settled_threads, root=prepared.store.root,
            timeout_seconds=setting.timeout, python=there.python if there else None,
        )  # fmt: skip
    except WorkerError as error:
        where = _not_bisected(f"the bisection failed: {error.reason}")
    return {"case": case["name"], **where}


def _not_bisected(reason: str) -> dict[str, Any]:
    return {"layer": None, "node": None, "notes": [reason]}


def _tokens(case: Mapping[str, Any]) -> int:
    return int(case["batch"] * case["length"])


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
        sizes = f"batch {_listed(p.batch for p in points)} × length {_listed(p.length for p in points)}"
    yield f"against eager in float64: {sizes}; {ids}; masks {', '.join(options.masks)}; seed {options.seed}"
    for precision, tolerance in tolerances.items():
        yield limits(precision, tolerance, run.model.task == "lm")


def _listed(numbers: Iterator[int]) -> str:
    return ", ".join(str(number) for number in dict.fromkeys(numbers))


def limits(precision: str, tolerance: Tolerance, has_logits: bool) -> str:
    """One line on what a precision may differ by."""
    factor = tolerance.eager_factor
    line = (
        f"{precision}: equivalent up to {factor:g}× eager's own RMSE, {LOCAL_FACTOR * factor:g}× at one token or unit, "
        f"or each error within {told(tolerance)}; "
    )
    if not tolerance.has_budget:
        return line + "nothing may be lost"
    budget = []
    if tolerance.max_rms_share is not None:
        budget.append(f"RMSE {tolerance.max_rms_share:.3g} of the reference's RMS")
    if tolerance.max_kl is not None and has_logits:
        budget.append(f"mean KL {tolerance.max_kl:g}")
    if tolerance.min_top1 is not None and has_logits:
        budget.append(f"top-1 {tolerance.min_top1:.3g} beside near-ties")
    return f"{line}lossy up to {', '.join(budget)}"


def sections(run: Run, remarks: Sequence[str]) -> Iterator[Section]:
    """One for each candidate, then notes."""
    found = judgements(run)
    has_logits = run.model.task == "lm"
    titles = TITLES + (TITLES_OF_LOGITS if has_logits else TITLES_OF_HIDDEN_STATES)
    is_left = (True, True, *[False] * (len(titles) - 2))
    for one in found:
        is_told = one.verdict not in ("original", "exact")
        lines = [f"worst: {one.reason}" if one.cases else one.reason] if is_told else []
        rows = tuple(_cells(case, has_logits) for case in one.cases[:PRINTED_CASES])
        items = [*_more(one), *_generated(one), *_bisected(one)]
        style = PARITY_STYLES.get(one.verdict, "")
        yield Section(f"{one.label}: {one.verdict}", lines, Table(titles, rows, is_left), items, style=style)
    yield Section("Notes", items=[*remarks, *blind_spots(found)])


def _cells(case: Mapping[str, Any], has_logits: bool) -> tuple[str, ...]:
    """One case under the titles; dashes if nothing was measured."""
    share, ratio = case.get("share_of_limit"), case.get("rmse_ratio")
    cells = (
        case["name"],
        case["verdict"],
        DASH if share is None else f"{share:.0%}" if share < 10 else ">999%",
        DASH if ratio is None else f"{ratio:.3g}",
        _scientific(case.get("max_abs_error")),
    )
    if has_logits:
        shares = (case.get("top1_agreement"), case.get("top_k_overlap"))
        return (*cells, _scientific(case.get("kl_mean")), *(DASH if s is None else f"{100 * s:.3g}%" for s in shares))
    cosine = case.get("min_cosine")
    return (*cells, _scientific(case.get("p99_abs_error")), DASH if cosine is None else f"{cosine:.6f}")


def _scientific(value: float | None) -> str:
    return DASH if value is None else f"{value:.1e}"


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
    if "case" in found:
        compared = (
            f": {found['layers_compared']} hidden states and {found['values_compared']} values compared"
            if "layers_compared" in found
            else ""
        )
        yield f"bisection of {found['case']}{compared}"
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
