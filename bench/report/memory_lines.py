"""What the figures of `bench memory` mean, as sentences: one line each, for the table and for JSON."""

from __future__ import annotations

from collections.abc import Sequence

from bench.footprint.published import Published, published
from bench.footprint.results import Entry, Largest, Loaded, MemoryRun, Subject
from bench.report.summary import elsewhere
from bench.spec import Candidate
from exporters.sources import BYTES_PER_ELEMENT

MIB = 2**20
#: Two rests of the larger one's size within this share of each other are called the same.
SAME_SHARE = 0.15
ENDS = {
    "most": "the search ended at --most-batch, which fits",
    "time": "the search ended with --max-seconds-per-search",
}


def name_of(run: MemoryRun, entry: Entry) -> str:
    """The backend, with the precision where there are several."""
    return entry.label if len(run.precisions) == 1 else f"{entry.label} {entry.precision}"


def puzzle_lines(run: MemoryRun) -> list[str]:
    """Each backend's models against its first one: the process grows as the parameters do, and the rest is the same."""
    lines = []
    for group in _by_contestant([entry for entry in run.loaded if entry.status == "ok"]):
        first, *others = group
        for other in others:
            lines += _puzzle(run, first, other)
    return lines + [line for one in published() for line in _published_puzzle(run, one)]


def _puzzle(run: MemoryRun, one: Loaded, other: Loaded) -> list[str]:
    rests = [rest for entry in (one, other) if (rest := entry.beside_parameters_bytes(run.device)) is not None]
    if len(rests) < 2:
        return []
    parameters = [entry.memory["parameters_bytes"] for entry in (one, other)]
    more = parameters[1] - parameters[0] + rests[1] - rests[0]
    unread = any(entry.unread_bytes(run.device) for entry in (one, other))
    what = "process, with the weights that it has not read yet," if unread else "process"
    line = (
        f"{name_of(run, one)}: the {what} takes {mebibytes(more)} MiB more for {other.model} than for {one.model}, and "
        f"parameters and buffers are {mebibytes(parameters[1] - parameters[0])} MiB more. Beside them it holds "
        f"{mebibytes(rests[0])} and {mebibytes(rests[1])} MiB"
    )
    if run.device == "cpu" and "process_bytes" in one.before:
        line += f", of which {mebibytes(one.before['process_bytes'])} were there before it loaded anything"
    if abs(rests[1] - rests[0]) <= SAME_SHARE * max(abs(rest) for rest in rests):
        return [f"{line}: the same runtime, whatever the model"]
    return [f"{line}: not the same, so this backend keeps more than parameters that grows with the model"]


def _published_puzzle(run: MemoryRun, one: Published) -> list[str]:
    names = [subject.name for subject in run.subjects if subject.name in one.loaded]
    if not names or one.precision not in run.precisions:
        return []
    held = [one.loaded[name] for name in names]
    rests = {figures["process_mib"] - figures["weights_and_rounding_mib"] for figures in held}
    told = ", ".join(f"{name} {figures['process_mib']}" for name, figures in zip(names, held, strict=True))
    weights = ", ".join(str(figures["weights_and_rounding_mib"]) for figures in held)
    same = "the same " if len(names) > 1 and len(rests) == 1 else ""
    rest = ", ".join(map(str, sorted(rests)))
    line = (
        f"published, {one.device}: {told} MiB of process, of which {weights} are weights, masks and the allocator's "
        f"rounding, and {same}{rest} MiB CUDA context and kernels"
    )
    return [line]


def lengths_of_cache(subject: Subject) -> list[int]:
    """The lengths asked about, and the model's positions."""
    return sorted({*subject.lengths, *([subject.positions] if subject.positions else [])})


def cache_lines(run: MemoryRun) -> list[str]:
    """The arithmetic of each decoder's cache, with its factors."""
    lines = []
    for subject in run.subjects:
        if subject.cached is None:
            lines.append(f"{subject.name}: none, as it is no decoder")
            continue
        cached = subject.cached
        for precision in run.precisions:
            products = []
            for length in lengths_of_cache(subject):
                taken = cached.bytes(length, precision)
                products.append(f"{length} tokens = {taken:,} ({mebibytes(taken)} MiB)")
            lines.append(
                f"{subject.name} {precision}: 2 (keys, values) × {cached.layers} layers × {cached.heads} heads × "
                f"{cached.head_width} wide × {BYTES_PER_ELEMENT[precision]} bytes × {', × '.join(products)}"
            )
    return lines


def gradient_lines(run: MemoryRun) -> list[str]:
    """What autograd stores for a sequence, against a call without it, and the published figure."""
    lines = []
    for entry in run.largest:
        if not entry.has_gradients or entry.stored_bytes_per_sequence is None or entry.boundary is None:
            continue
        line = (
            f"{entry.model} at {entry.length}, {entry.precision}: with gradients a sequence stores "
            f"{mebibytes(entry.stored_bytes_per_sequence)} MiB"
        )
        plain = next((other for other in run.largest if _is_the_same_without(entry, other)), None)
        if plain is not None and plain.boundary is not None and plain.stored_bytes_per_sequence is not None:
            line += (
                f", without {mebibytes(plain.stored_bytes_per_sequence)}; {_bound(entry)} against {_bound(plain)} fit"
            )
        for one in published():
            figure = one.stored.get(entry.model, {}).get(str(entry.length))
            if figure is not None and entry.precision == one.precision:
                line += f" (published, {one.device}: {figure} MiB with gradients)"
        lines.append(line)
    return lines


def _is_the_same_without(entry: Largest, other: Largest) -> bool:
    """True where `other` is `entry`'s model, backend and length without gradients."""
    names = ("model", "backend", "precision", "environment", "length")
    return other.variant == "default" and all(getattr(entry, name) == getattr(other, name) for name in names)


def _bound(entry: Largest) -> str:
    assert entry.boundary is not None
    return str(entry.boundary.largest) if entry.boundary.is_exact else f"at least {entry.boundary.largest}"


def ending_lines(run: MemoryRun) -> list[str]:
    """What ended each search, and what was not as it should be."""
    lines = []
    for entry in run.largest:
        if (found := entry.boundary) is None:
            continue
        said = []
        if found.ended_by in ENDS:
            said.append(ENDS[found.ended_by])
            if found.too_large is not None:
                said.append(f"batch {found.too_large} does not fit")
        if entry.status != "ok":
            said.append(f"{entry.status}: {entry.reason}")
        if found.ended_by in ("boundary", "most") and found.is_steady and not found.is_confirmed:
            said.append("there was no time to try the boundary again")
        if entry.status == "ok" and "signal" in entry.failure:
            words = "".join(f": {word}" for word in entry.failure.get("stderr", [])[-1:])
            said.append(
                f"at batch {found.too_large} the worker ended itself ({entry.failure['signal']}{words}), "
                "which is taken for want of memory"
            )
        if not found.is_steady:
            answers = {(one.batch, one.fits) for one in entry.tries}
            both = sorted(batch for batch, fits in answers if fits and (batch, False) in answers)
            said.append(f"batch {', '.join(map(str, both))} fitted once and another time did not")
        if said:
            lines.append(f"{entry.model} {name_of(run, entry)} at {entry.length}: {'; '.join(said)}")
    return lines or (["each found its boundary, and found it again"] if _has_boundaries(run) else [])


def _has_boundaries(run: MemoryRun) -> bool:
    return any(entry.boundary is not None for entry in run.largest)


def environment_lines(run: MemoryRun) -> list[str]:
    """What each contestant ran with that did not run in this environment."""
    lines = (f"{name_of(run, entry)}: {words}" for entry in run.loaded if (words := elsewhere(entry.versions)))
    return list(dict.fromkeys(lines))


def not_measured_lines(run: MemoryRun) -> list[str]:
    entries: list[Entry] = [entry for entry in run.loaded if entry.status != "ok"]
    entries += [entry for entry in run.largest if entry.boundary is None]
    told = (f"{entry.model} {name_of(run, entry)}: {entry.status}: {entry.reason}" for entry in entries)
    return list(dict.fromkeys(told))


def _by_contestant(entries: Sequence[Loaded]) -> list[list[Loaded]]:
    groups: dict[Candidate, list[Loaded]] = {}
    for entry in entries:
        groups.setdefault(entry.contestant, []).append(entry)
    return list(groups.values())


def mebibytes(count: float | None) -> str:
    """Bytes as MiB: one decimal below 10, none above; a dash for None."""
    if count is None:
        return "–"
    value = count / MIB
    return f"{value:.1f}" if abs(value) < 9.95 else f"{value:.0f}"


def size(count: int) -> str:
    """`4.0 GiB` or `512 MiB`."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / MIB:.0f} MiB"
