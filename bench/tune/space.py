"""What tuning may take: every runtime that could be deployed here, by variant and precision; threads come later."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import backends as registry
from backends.base import Backend
from bench.columns import count
from bench.errors import UserError
from bench.process.environments.asking import environment_of
from bench.process.environments.stored import check_all_used, flaw, places
from bench.spec import PRECISIONS, Candidate, parse_candidates
from bench.tune import promise


@dataclass(frozen=True, order=True)
class Trial:
    """One point of the searched space."""

    candidate: Candidate
    threads: int

    @property
    def label(self) -> str:
        """As a table calls it."""
        return f"{self.candidate.label} {self.candidate.precision}, {count(self.threads, 'thread')}"


@dataclass(frozen=True)
class Space:
    """What is tried, the cheapest first, and what is not, with the reason."""

    candidates: tuple[Candidate, ...]
    left_out: tuple[tuple[str, str], ...]
    """Label and reason."""


#: Interpreters of the user's own, as (place, path).
Pythons = Sequence[tuple[str, str]]


def whole_space(device: str, precisions: Sequence[str], root: Path, pythons: Pythons = ()) -> Space:
    """Every backend that computes the model and is installed, in every variant that is meant to be deployed.

    `root` is the folder of the store, whose environments are asked what runs in them; `pythons` are interpreters of the
    user's own by place, and a backend is tried in each that is given for it.
    """
    found, left_out = [], []
    for name in registry.names():
        try:
            backend = registry.load_class(name)
        except Exception as error:  # a plugin may raise anything
            left_out.append((name, f"cannot be loaded ({error})"))
            continue
        if backend.spec.computes_the_model:
            named = [place.partition("@")[2] for place, _ in pythons if place.startswith(f"{name}@")]
            for environment in ("", *named):
                kept, refused = _of_backend(backend, environment, device, precisions, root, pythons)
                found += kept
                left_out += refused
    return Space(tuple(sorted(found, key=_cost)), tuple(left_out))


def asked_space(
    names: Sequence[str], device: str, precisions: Sequence[str], root: Path, pythons: Pythons = ()
) -> Space:
    """The backends (with all their variants) and variants that `names` asks for; raises UserError for unknown ones.

    "onnx" stands for all of its variants, "onnx:default" and "onnx:fused" for one each, "onnx@old" for all of them in
    another environment. `root` and `pythons` are those of `whole_space`.
    """
    found, left_out, used = list[Candidate](), list[tuple[str, str]](), set[str]()
    known = {*places(root), *dict(pythons)}
    for name in names:
        asked = parse_candidates([name], precisions, places=known)
        backend = registry.load_class(asked[0].backend)
        if not backend.spec.computes_the_model:
            raise UserError(f"backend {asked[0].backend} computes no model, so there is nothing to tune; leave it out")
        used.add(asked[0].place)
        kept, refused = _of_backend(backend, asked[0].environment, device, precisions, root, pythons)
        if ":" in name:
            kept = [c for c in kept if c in asked]
            refused = [(label, reason) for label, reason in refused if label.split()[0] in (name, backend.spec.name)]
        found += kept
        left_out += refused
    check_all_used(pythons, used)
    if not found:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in left_out[:3]) or "no backend was named"
        raise UserError(f"nothing of --backends can be tried here ({reasons}); `bench list backends` shows what can")
    return Space(tuple(sorted(dict.fromkeys(found), key=_cost)), tuple(dict.fromkeys(left_out)))


def _of_backend(
    backend: type[Backend], environment: str, device: str, precisions: Sequence[str], root: Path, pythons: Pythons
) -> tuple[list[Candidate], list[tuple[str, str]]]:
    """Candidates of a backend in one environment, and what of it cannot run, with the reason."""
    spec = backend.spec
    variants = [variant for variant in spec.variants if variant not in spec.not_for_deployment]
    wanted = [Candidate(spec.name, v, precision, environment=environment) for precision in precisions for v in variants]
    if not wanted:
        return [], []
    place = wanted[0].place
    if place not in dict(pythons) and (wrong := flaw(root, place)):
        return [], [(place, f"its environment {wrong}; run: bench env create {place}")]
    elsewhere = environment_of(root, wanted, device, pythons)
    reasons = {
        one: backend.supports(one.variant, device, one.precision)
        if elsewhere is None
        else elsewhere.reasons.get((one.variant, one.precision))
        for one in wanted
    }
    refused = dict[tuple[str, str], None]()
    for one, reason in reasons.items():
        # What needs another device or precision than was asked for is no candidate that was left out.
        if reason and one.precision in spec.precisions.get(device, ()):
            alike = {reasons[other] for other in wanted if other.precision == one.precision} == {reason}
            refused[spec.name if alike and elsewhere is None else f"{one.label} {one.precision}", reason] = None
    return [one for one in wanted if not reasons[one]], list(refused)


def _cost(candidate: Candidate) -> tuple[bool, int, str, bool, str]:
    """What is tried first: runtimes that compile no shape, fp32, plain variants."""
    backend = registry.load_class(candidate.backend)
    precision = PRECISIONS.index(candidate.precision)
    is_dear = backend.spec.compiles_every_shape(candidate.variant)
    return is_dear, precision, candidate.backend, candidate.variant != "default", candidate.variant


def thread_counts(most: int, device: str) -> tuple[int, ...]:
    """Numbers of threads that are tried: all, halves of that, one; on a GPU the host's matter little, so all alone."""
    halves = range(most.bit_length()) if device == "cpu" else range(1)
    return tuple(most >> half for half in halves)


def format_of(candidate: Candidate) -> tuple[str | None, str]:
    """Format and precision of what a candidate loads."""
    spec = registry.load_class(candidate.backend).spec
    return spec.format_of(candidate.variant), spec.artifact_precision(candidate.variant, candidate.precision)


def guessed_seconds(candidate: Candidate, exported: Collection[tuple[str | None, str]], shapes: int) -> float:
    """Guessed seconds that a first try of a candidate takes at so many shapes, with what was exported before."""
    spec, needed = registry.load_class(candidate.backend).spec, format_of(candidate)
    compiled = shapes if spec.compiles_every_shape(candidate.variant) else 0
    return promise.seconds(needed[0], needed in exported, compiled)


def in_order(candidates: Sequence[Candidate], machine: promise.Machine, shapes: int) -> tuple[Candidate, ...]:
    """Candidates as they are tried: eager in fp32, to which all are held, then by guessed speed over cost to try."""
    left, found, exported = list(candidates), list[Candidate](), set[tuple[str | None, str]]()

    def worth(one: Candidate) -> tuple[bool, float]:
        # Squared, as what is guessed to be slow is worth little however cheap it is to try.
        return one.is_original, promise.speed(one, machine) ** 2 / guessed_seconds(one, exported, shapes)

    while left:
        following = max(left, key=worth)
        left.remove(following)
        found.append(following)
        exported.add(format_of(following))
    return tuple(found)
