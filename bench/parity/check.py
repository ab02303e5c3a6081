"""`check_parity`: is each backend still the same model? One certificate from one matrix of inputs."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine
from bench.errors import UserError
from bench.parity import matrix as matrices
from bench.parity import texts
from bench.parity.certificate import Certificate, Judgement
from bench.parity.examination import Examination, bisection_of
from bench.parity.inputs import MASKS, OWN
from bench.parity.matrix import PROMPT_LENGTH, Matrix
from bench.parity.references import Say
from bench.parity.verdict import Tolerance, tolerance_of
from bench.preparation import Preparation
from bench.process.environments.stored import settle_candidates
from bench.run.model import MakeInputs, find_source, notes_on
from bench.spec import (
    Candidate,
    Grid,
    Shape,
    check_lengths,
    check_seed,
    check_timeout,
    model_option,
    parse_sizes,
    python_options,
    tf32_option,
    weights_options,
)
from exporters import sources, tokenizer
from exporters.store import ArtifactStore, file_checksum

#: Options that replace a tolerance's own values, and the field of `Tolerance` that each sets.
OVERRIDES = {"--atol": "atol", "--rtol": "rtol", "--max-kl": "max_kl", "--min-top1": "min_top1"}
OF_LOGITS = ("--max-kl", "--min-top1")
DEFAULT_NEW_TOKENS = 16


def check_parity(
    model: Any,
    *,
    make_inputs: MakeInputs | None = None,
    backends: str | Iterable[str] = ("eager", "onnx", "torchscript"),
    precisions: str | Iterable[str] = ("fp32",),
    task: str = "base",
    batches: str | Iterable[int] = matrices.DEFAULT_BATCHES,
    lengths: str | Iterable[int] | None = None,
    masks: str | Iterable[str] = MASKS,
    text_tokenizer: str | Path | None = None,
    new_tokens: int | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    max_kl: float | None = None,
    min_top1: float | None = None,
    bisect: bool = False,
    device: str = "auto",
    tf32: bool = False,
    threads: int | None = None,
    weights: str = "auto",
    seed: int = 0,
    timeout: float = 900.0,
    python: str | Iterable[str] = (),
    artifacts: str | Path = "artifacts",
    say: Say = lambda line: None,
) -> Certificate:
    """Judge `model` on every backend and precision against eager in float64; returns the Certificate.

    `model` and `make_inputs` are as `compare` takes them.
    The matrix is `batches` × `lengths` (tokens; by default 1, 16, 37 and the largest) × random and tokenised ids ×
    `masks`. `text_tokenizer` is a tokenizer.json or a folder with one, for models that have none of their own.
    With task "lm" a decoder also generates `new_tokens` tokens greedily. `atol`, `rtol`, `max_kl` (nats) and
    `min_top1` (share) replace the values of `TOLERANCES` for every precision. `bisect` looks for the first layer and
    node of what is broken. `tf32` lets fp32 products on a GPU round their inputs to TF32. `python` ("onnx@old=PATH", or
    several) has a backend run by another environment's interpreter. Raises UserError before anything starts, and
    BenchError when the check cannot go on.
    """
    contestants, pythons = settle_candidates(backends, precisions, python, Path(artifacts))
    overrides = checked_overrides({"--atol": atol, "--rtol": rtol, "--max-kl": max_kl, "--min-top1": min_top1}, task)
    batch_sizes = parse_sizes(batches, "--batches")
    length_sizes = None if lengths is None else parse_sizes(lengths, "--lengths")
    kinds_of_masks = matrices.parse_masks(masks)
    check_seed(seed)
    check_timeout(timeout)
    budget = machine.thread_budget(threads)
    settled_device = machine.settle_device(device)
    machine.check_tf32(tf32, settled_device)
    if tf32 and bisect:
        raise UserError("--bisect looks for a fault, and --tf32 rounds every product; leave one of the two out")
    store = ArtifactStore(Path(artifacts))
    source = find_source(
        model, store, make_inputs=make_inputs, weights=weights, task=task, seed=seed, threads=budget, say=say
    )
    task = source.task
    shapes = tuple(
        Shape(batch, length)
        for batch in batch_sizes
        for length in length_sizes or matrices.default_lengths(source.positions)
    )
    check_lengths(shapes, source.name, source.positions)
    file = tokenizer_of(source, text_tokenizer)
    if file is not None:
        tokenizer.encode(file, texts.texts(1, seed), PROMPT_LENGTH, source.vocab_size)  # is it this model's?
    notes = notes_on(source)
    if not file and not source.makes_inputs:
        notes.append(
            "no tokenizer lies beside this model: in place of text, ids are drawn by Zipf's law; --tokenizer names one"
        )
    plan = Matrix(
        ids=(OWN,) if source.makes_inputs else ("random", "text" if file else "zipf"),
        masks=("full",) if notes_on(source) else kinds_of_masks,
        tokenizer=file,
        new_tokens=_new_tokens(new_tokens, source, task),
    )
    certificate = Certificate(
        grid=Grid(
            source.name,
            contestants,
            shapes,
            settled_device,
            budget,
            source.weights,
            task,
            seed,
            pythons=pythons,
            tf32=tf32,
        ),
        ids=plan.ids,
        masks=plan.masks,
        tokenizer=file_checksum(file) if file else None,
        new_tokens=plan.new_tokens,
        overrides=overrides,
        tolerances=tolerances(contestants, overrides, tf32=tf32),
        origin=source.origin,
        weights_checksum=source.weights_checksum(),
        fingerprint=machine.fingerprint(),
        command="",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        notes=notes,
    )
    certificate.command = _command_of(certificate, text_tokenizer)
    store.prepare()
    with store.in_use():
        prepared = Preparation(certificate.grid, source, store, timeout, say, plan)
        prepared.make()
        for contestant in contestants:
            found = Examination(prepared, contestant, certificate.tolerances[contestant.precision]).judgement()
            if bisect and found.verdict == "broken":
                say(f"bisecting {found.label}")
                found.bisection = bisection_of(prepared, found)
            certificate.judgements.append(found)
            certificate.notes += [note for note in blind_spot(found) if note not in certificate.notes]
            say(f"{found.label}: {found.verdict}: {found.reason}")
    return certificate


def _command_of(certificate: Certificate, text_tokenizer: str | Path | None) -> str:
    """The command line that makes such a certificate."""
    grid = certificate.grid
    options: dict[str, Any] = {
        **model_option(grid),
        "--backends": ",".join(dict.fromkeys(contestant.label for contestant in grid.contestants)),
        "--precisions": ",".join(certificate.tolerances),
        "--batches": ",".join(str(batch) for batch in dict.fromkeys(shape.batch for shape in grid.shapes)),
        "--lengths": ",".join(str(length) for length in dict.fromkeys(shape.length for shape in grid.shapes)),
        "--masks": ",".join(certificate.masks),
        "--device": grid.device,
        "--threads": grid.threads,
        **weights_options(grid),
        "--seed": grid.seed,
    }
    if text_tokenizer is not None:
        options["--tokenizer"] = text_tokenizer
    if grid.task == "lm":
        options["--new-tokens"] = certificate.new_tokens
    options |= {
        option: certificate.overrides[name] for option, name in OVERRIDES.items() if name in certificate.overrides
    }
    words = (str(part) for option in options.items() for part in option)
    return shlex.join(["bench", "parity", *words, *tf32_option(grid), *python_options(grid, grid.contestants)])


def blind_spot(judgement: Judgement) -> list[str]:
    """What rounding hides at a lower precision, as a sentence; nothing at fp32."""
    precision = judgement.contestant.precision
    cases = [case for case in judgement.cases if case.get("rms_reference") and case.get("rmse_eager")]
    if precision == "fp32" or not cases:
        return []
    share = max(case["rmse_eager"] / case["rms_reference"] for case in cases)
    rounding = f"at {precision} eager's own rounding is up to {share:.2%} of the reference's RMS"
    return [f"{rounding}: a fault of about that size cannot be seen; judge the same export at fp32 too"]


def checked_overrides(given: Mapping[str, float | None], task: str) -> dict[str, float]:
    """Those options that were given, by field of `Tolerance`; raises UserError for what cannot be."""
    found = {}
    for option, value in given.items():
        if value is None:
            continue
        if option in OF_LOGITS and task != "lm":
            raise UserError(f"{option} is about a language model's head; add --task lm")
        if not 0 <= value < float("inf"):
            raise UserError(f"{option} {value} is no number from 0 on; use e.g. {option} 0.001")
        if option == "--min-top1" and value > 1:
            raise UserError(f"{option} {value} is above 1; it is a share, e.g. 0.99")
        found[OVERRIDES[option]] = float(value)
    return found


def tolerances(
    contestants: Iterable[Candidate], overrides: Mapping[str, float], *, tf32: bool = False
) -> dict[str, Tolerance]:
    """What each precision may differ by, with the user's own values in place."""
    return {c.precision: replace(tolerance_of(c.precision, tf32=tf32), **overrides) for c in contestants}


def tokenizer_of(source: sources.ModelSource, given: str | Path | None) -> Path | None:
    """The tokenizer file that the user named, or the model's own; None for none."""
    if given is not None:
        if (found := tokenizer.find(given)) is None:
            raise UserError(
                f"--tokenizer {str(given)!r} is no tokenizer.json and has none; give a model folder with one"
            )
        return found
    return tokenizer.find(source.folder) if source.folder else None


def _new_tokens(given: int | None, source: sources.ModelSource, task: str) -> int:
    """Tokens to generate: only a decoder with its head generates."""
    generates = source.generates
    if given is None:
        wanted = DEFAULT_NEW_TOKENS if generates else 0
        return min(wanted, max(0, (source.positions or wanted + PROMPT_LENGTH) - PROMPT_LENGTH))
    if given < 0:
        raise UserError(f"--new-tokens {given} is below 0; use 0 for none")
    if given and not generates:
        why = "add --task lm" if task != "lm" else f"{source.name} is no decoder"
        raise UserError(f"--new-tokens {given}: only a decoder with its head generates; {why}")
    if source.positions is not None and given + PROMPT_LENGTH > source.positions:
        raise UserError(
            f"--new-tokens {given} and a prompt of {PROMPT_LENGTH} exceed the {source.positions} positions of "
            f"{source.name}; use --new-tokens ≤ {source.positions - PROMPT_LENGTH}"
        )
    return given
