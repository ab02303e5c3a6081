"""The contract that every backend keeps; a third party runs it on its own with `check_backend`.

from bench.testing import check_backend
check_backend("mybackend")
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import backends
from backends.base import Backend, BackendError, Options, Spec, UnsupportedError, runtime_errors
from backends.protocols import Generator, InnerValues, ShapeCompiler
from bench.process import abilities

if TYPE_CHECKING:
    import numpy as np

    from bench.parity.inputs import InputPlan
    from exporters.sources import ModelSource
    from exporters.store import Artifact

    Array = np.ndarray[Any, Any]

#: Modules that the parent process must never load.
HEAVY = (
    "torch", "transformers", "onnx", "onnxscript", "onnxruntime", "openvino", "tensorrt", "numpy", "matplotlib",
    "pandas", "vl_convert",
)  # fmt: skip
#: What a call that settles may be off by where its precision has no budget, as a share of the output's RMS.
SETTLING_SHARE = 1e-4
#: Shapes that a backend is run at: the largest of the tiny models, one token, and shapes that no export ran on.
SHAPES = ((1, 1), (2, 16), (3, 37), (1, 128))


class ContractError(AssertionError):
    """A backend breaks the contract; the message says which rule and how."""


def check_backend(
    name: str,
    *,
    variant: str = "default",
    model: str = "bert-tiny",
    device: str = "cpu",
    precision: str = "fp32",
    artifacts: Path | None = None,
    shapes: Sequence[tuple[int, int]] = SHAPES,
) -> list[str]:
    """Run every check of the contract on backend `name`; returns the checks that were made.

    `artifacts` is a store to take exported models from; without it they are made in a temporary
    folder. `shapes` are two or more of batch and length to run it at. Raises ContractError for the
    first rule that is broken.
    """
    backend_class = backends.load_class(name)
    before = (_check_declaration, _check_protocols, _check_refusals, _check_stays_light)
    made = _made(before, name, backend_class, variant)
    if reason := backend_class.supports(variant, device, precision):
        raise ContractError(f"{name} cannot be checked here: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        bench = _Workbench(backend_class, variant, model, device, precision, artifacts or Path(folder), shapes)
        return made + _made((bench.check_missing_artifact, bench.check_shapes, bench.check_outputs, bench.check_close))


def _made(checks: Sequence[Callable[..., object]], *arguments: Any) -> list[str]:
    """Make every check; returns what each is."""
    for check in checks:
        check(*arguments)
    return [(check.__doc__ or "").strip().splitlines()[0] for check in checks]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ContractError(message)


def _check_declaration(name: str, backend_class: type[Backend], variant: str) -> None:
    """It is a Backend with a Spec under its own name, with a default variant, and says what to install."""
    _require(issubclass(backend_class, Backend), f"{backend_class} is no backends.base.Backend")
    spec = getattr(backend_class, "spec", None)
    if not isinstance(spec, Spec):
        raise ContractError(f"{backend_class} has no backends.base.Spec as its attribute 'spec', but {spec!r}")
    _require(spec.name == name, f"{backend_class} is registered as {name!r} and calls itself {spec.name!r}")
    _require("default" in spec.variants, f"{name} has no variant 'default'")
    _require(variant in spec.variants, f"{name} has no variant {variant!r}")
    _require(bool(spec.precisions), f"{name} declares no device and precision")
    _require(bool(spec.install) or not spec.requires, f"{name} requires modules and names nothing to install")
    unknown = {*spec.compiled_per_shape, *spec.not_for_deployment} - set(spec.variants)
    _require(not unknown, f"{name} says something of variants that it does not have: {', '.join(sorted(unknown))}")


def _check_protocols(name: str, backend_class: type[Backend], variant: str) -> None:
    """It has each protocol of backends.protocols as a whole or not at all, and what it declares to have."""
    whole = set()
    for protocol in abilities.PROTOCOLS:
        members = {member for member in {*vars(protocol), *protocol.__annotations__} if not member.startswith("_")}
        lacking = sorted(member for member in members if not hasattr(backend_class, member))
        if not lacking:
            whole.add(protocol)
        _require(
            len(lacking) in (0, len(members)),
            f"{name} has some of {protocol.__name__} and lacks {', '.join(lacking)}; see backends/protocols.py",
        )
    for declared, protocol in (("generation", Generator), ("compiled_per_shape", ShapeCompiler)):
        is_declared = bool(getattr(backend_class.spec, declared))
        _require(not is_declared or protocol in whole, f"{name} declares {declared} and is no {protocol.__name__}")


def _check_refusals(name: str, backend_class: type[Backend], variant: str) -> None:
    """It refuses an unknown device and an unknown precision, with a reason that names them."""
    spec = backend_class.spec
    for device, precision, named in (("abacus", "fp32", "abacus"), (next(iter(spec.precisions)), "fp99", "fp99")):
        reason = backend_class.supports(variant, device, precision)
        _require(reason is not None and named in reason, f"{name} accepts {precision} on {device}: {reason!r}")


def _check_stays_light(name: str, *of: object) -> None:
    """Its module and `supports` import no framework."""
    _check_imports(
        "import backends; b = backends.load_class(sys.argv[1]);"
        "b.supports('default', 'cpu', 'fp32'); b.spec.missing(); b.spec.versions()",
        name,
    )


def _check_imports(code: str, name: str) -> None:
    """Run `code`, which imports what is called `name`, in a fresh process; raises ContractError if it loads HEAVY."""
    root = str(Path(__file__).resolve().parent.parent)
    code = f"import sys; sys.path.insert(0, {root!r}); {code}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=False)
    _require(done.returncode == 0, f"{name} cannot be imported in a fresh process: {done.stderr.strip()[-300:]}")
    _require(
        done.stdout.strip() == "[]",
        f"importing {name} loads {done.stdout.strip()}; import them inside the functions that need them",
    )


def _same(arrays: Mapping[str, Array], others: Mapping[str, Array]) -> bool:
    """True if each of `arrays` is bit for bit the one of `others` under its name."""
    import numpy as np

    return all(name in others and np.array_equal(array, others[name], equal_nan=True) for name, array in arrays.items())


@dataclass
class _Workbench:
    """One backend with its artifact, the reference to judge it by, and the checks that need both."""

    backend_class: type[Backend]
    variant: str
    model: str
    device: str
    precision: str
    root: Path
    shapes: Sequence[tuple[int, int]] = SHAPES
    task: str = "base"

    def __post_init__(self) -> None:
        from exporters.sources import resolve

        self.name = self.backend_class.spec.name
        self.source: ModelSource = resolve(self.model, weights="random", task=self.task)
        self.options = self._variants()[self.variant]
        self.weights: Artifact | None = None
        self.artifact: Artifact | None = None
        if self._format() is not None:
            self._export()

    def _variants(self) -> Mapping[str, Options]:
        return self.backend_class.spec.variants

    def _format(self) -> str | None:
        return self.backend_class.spec.format_of(self.variant)

    def _export(self) -> None:
        import exporters
        from exporters import checkpoint
        from exporters.store import ArtifactStore

        store = ArtifactStore(self.root)
        self.weights = weights = store.make(
            checkpoint.recipe(self.source), lambda folder: checkpoint.export(self.source, folder)
        )
        self.artifact = weights
        format_name = str(self._format())
        if format_name != "checkpoint":
            module = exporters.load_module(format_name)
            precision = self.backend_class.spec.artifact_precision(self.variant, self.precision)
            recipe = exporters.recipe(format_name, weights.key, precision=precision, device=self.device)
            self.artifact = store.make(recipe, lambda folder: module.export(weights.path, folder, recipe))

    def _loaded(self, path: Path | None = None) -> Backend:
        from exporters.checkpoint import open_checkpoint

        backend = self.backend_class(open_checkpoint=open_checkpoint)
        with runtime_errors():
            backend.load(
                path or (self.artifact.path if self.artifact else None),
                device=self.device,
                precision=self.precision,
                threads=1,
                options=self.options,
            )
        return backend

    def _references(self, precision: str) -> list[Backend]:
        """Eager in float64, and at `precision` on the device."""
        from backends.eager import Eager
        from exporters.checkpoint import open_checkpoint

        assert self.weights is not None
        found: list[Backend] = []
        for wanted, device in (("fp64", "cpu"), (precision, self.device)):
            found.append(Eager(open_checkpoint=open_checkpoint))
            found[-1].load(self.weights.path, device=device, precision=wanted, threads=1, options={})
        return found

    def _check_verdict(
        self, passing: Sequence[str], told: str, found: dict[str, Array], references: Sequence[Any], mask: Array
    ) -> None:
        """Judge what was `found` by what the reference and eager gave; `told` is the error for a verdict."""
        from bench.parity import metrics, verdict

        (expected, own), tolerance = references, verdict.TOLERANCES[self.precision]
        figures = metrics.compare(found, expected, own, mask, self.precision, tolerance.atol, tolerance.rtol)
        judged = verdict.judge(figures, tolerance)
        _require(judged["verdict"] in passing, f"{told.format(judged['verdict'])}: {judged['reason']}")

    def _inputs(self, shape: tuple[int, int], seed: int = 0) -> InputPlan:
        from bench.parity.inputs import InputPlan, timed_cases

        vocabulary, padding, width = self.source.vocab_size, self.source.pad_token_id, self.source.width
        return InputPlan(*shape, vocabulary, padding, seed, width, timed_cases(shape[1]))

    def _outputs(self, backend: Backend, batch: Mapping[str, Array]) -> dict[str, Array]:
        prepared = backend.prepare(batch)
        backend.synchronize()
        outputs = backend.run(prepared)
        backend.synchronize()
        return backend.fetch(outputs)

    def check_missing_artifact(self) -> None:
        """Loading an artifact that is not there raises, and does not pass in silence."""
        if self._format() is None:
            return
        try:
            self._loaded(self.root / "no-such-artifact").close()
        except BackendError:
            return
        raise ContractError(f"{self.name} loads an artifact folder that does not exist")

    def check_shapes(self) -> None:
        """At every shape it repeats itself bit for bit, keeps its inputs, and returns memory of its own."""
        import numpy as np

        from bench.parity.inputs import make_batch

        name, backend = self.name, self._loaded()
        first: dict[tuple[int, int], dict[str, Array]] = {}
        for shape in (*self.shapes, self.shapes[0]):
            batch = make_batch(self._inputs(shape), "timed")
            before = {key: array.copy() for key, array in batch.items()}
            settling = [self._outputs(backend, batch) for _ in range(backend.spec.settling_calls.get(self.device, 0))]
            outputs = self._outputs(backend, batch)
            for early in settling:
                self._check_settled(early, outputs, shape)
            _require(bool(outputs), f"{name} returns no output at {shape}")
            for key, array in outputs.items():
                _require(isinstance(array, np.ndarray), f"{name} returns {type(array)} as {key}")
            earlier = first.setdefault(shape, {key: array.copy() for key, array in outputs.items()})
            _require(_same(outputs, earlier), f"{name} differs from its own first output at {shape}")
            for array in outputs.values():
                array[...] = 0
            is_same = _same(self._outputs(backend, batch), earlier)
            _require(is_same, f"{name} does not repeat itself at {shape}, or hands out memory that it uses again")
            _require(_same(before, batch), f"{name} changes its inputs at {shape}")
        other = self._outputs(backend, make_batch(self._inputs(self.shapes[1], seed=1), "timed"))
        _require(not _same(other, first[self.shapes[1]]), f"{name} returns the same for other inputs")
        json.dumps(backend.facts())
        self._check_watching(backend)
        self._check_inner_values(backend)
        if clock := abilities.clock_of(backend):
            start, end = clock.mark(), clock.mark()
            backend.synchronize()
            _require(clock.elapsed_ns(start, end) >= 0, f"{name}'s device clock runs backwards")
        abilities.trim(backend)
        backend.close()

    def _check_settled(self, early: Mapping[str, Array], settled: Mapping[str, Array], shape: tuple[int, int]) -> None:
        """A call that the backend declares to settle in is off by rounding at most."""
        import numpy as np

        from bench.parity.verdict import LOCAL_FACTOR, TOLERANCES

        share = LOCAL_FACTOR * (TOLERANCES[self.precision].max_rms_share or SETTLING_SHARE)
        for key, array in settled.items():
            difference = np.abs(early[key].astype(np.float64) - array).max(initial=0.0)
            rms = float(np.sqrt(np.mean(np.square(array.astype(np.float64)))))
            _require(
                early[key].shape == array.shape and difference <= share * rms,
                f"{self.name}'s first calls at {shape} are off its later ones by {difference:.1e}",
            )

    def _check_watching(self, backend: Backend) -> None:
        """A watched call is the same call, and memory is told in bytes."""
        from bench.parity.inputs import make_batch

        prepared = backend.prepare(make_batch(self._inputs(self.shapes[0]), "timed"))
        plain = backend.fetch(backend.run(prepared))
        abilities.reset_peak(backend)
        outputs, seen = abilities.watched(backend, prepared)
        backend.synchronize()
        json.dumps(seen)
        _require(_same(backend.fetch(outputs), plain), f"{self.name} computes something else while it is watched")
        held = abilities.held(backend)
        _require(
            all(isinstance(value, int) and value >= 0 and key.endswith("_bytes") for key, value in held.items()),
            f"{self.name} tells memory that is no count of bytes: {held}",
        )

    def _check_inner_values(self, backend: Backend) -> None:
        """Where values inside the model can be asked for, the outputs are among them and stay the same."""
        from bench.parity.inputs import make_batch

        if not isinstance(backend, InnerValues):
            return
        batch = make_batch(self._inputs(self.shapes[1]), "timed")
        try:
            values = backend.inner_values()
        except UnsupportedError:
            return
        plain = self._outputs(backend, batch)
        found, changed = backend.run_inner(batch, list(plain))
        _require(bool(values), f"{self.name} can be asked for inner values and has none")
        _require(set(changed) == {"undone", "notes"}, f"{self.name} does not say what asking for values changed")
        _require(_same(plain, found), f"{self.name} computes something else when it is asked for values")

    def check_outputs(self) -> None:
        """Its outputs are the model's, against eager in float64, with and without padded masks."""
        from bench.parity.inputs import make_batch
        from bench.parity.reference import EAGER_PRECISIONS

        if not self.backend_class.spec.computes_the_model or self.weights is None:
            return
        of_eager = EAGER_PRECISIONS.get(self.precision, self.precision)
        backend, references = self._loaded(), self._references(of_eager)
        # Eager has no int8, so its error there is not to be had, and all that is asked is to stay within the budget.
        passing = ("exact", "equivalent") if of_eager == self.precision else ("exact", "equivalent", "lossy")
        for shape in self.shapes:
            plan = self._inputs(shape)
            for case in plan.cases:
                batch = make_batch(plan, case)
                found, *others = (self._outputs(one, batch) for one in (backend, *references))
                told = f"{self.name} is {{}} at {shape}, {case}"
                self._check_verdict(passing, told, found, others, batch["attention_mask"])
        for loaded in (backend, *references):
            loaded.close()

    def check_close(self) -> None:
        """It may be closed twice, and loads again afterwards."""
        for _ in range(2):
            backend = self._loaded()
            backend.close()
            backend.close()
