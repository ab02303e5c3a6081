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
    made = [_described(check) for check in (_check_declaration, _check_protocols, _check_refusals, _check_stays_light)]
    _check_declaration(name, backend_class, variant)
    _check_protocols(name, backend_class)
    _check_refusals(backend_class, variant)
    _check_stays_light(name)
    if reason := backend_class.supports(variant, device, precision):
        raise ContractError(f"{name} cannot be checked here: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        bench = _Workbench(backend_class, variant, model, device, precision, artifacts or Path(folder), shapes)
        for check in (bench.check_missing_artifact, bench.check_shapes, bench.check_outputs, bench.check_close):
            made.append(_described(check))
            check()
    return made


def _described(check: Callable[..., object]) -> str:
    return (check.__doc__ or check.__name__).strip().splitlines()[0]


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


def _check_protocols(name: str, backend_class: type[Backend]) -> None:
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


def _check_refusals(backend_class: type[Backend], variant: str) -> None:
    """It refuses an unknown device and an unknown precision, with a reason that names them."""
    spec = backend_class.spec
    for device, precision, named in (("abacus", "fp32", "abacus"), (next(iter(spec.precisions)), "fp99", "fp99")):
        reason = backend_class.supports(variant, device, precision)
        _require(reason is not None and named in reason, f"{spec.name} accepts {precision} on {device}: {reason!r}")


def _check_stays_light(name: str) -> None:
    """Its module and `supports` import no framework."""
    code = (
        "import sys, backends; b = backends.load_class(sys.argv[1]);"
        "b.supports('default', 'cpu', 'fp32'); b.spec.missing(); b.spec.versions();"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    root = str(Path(__file__).resolve().parent.parent)
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); {code}", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    _require(done.returncode == 0, f"{name} cannot be imported in a fresh process: {done.stderr.strip()[-300:]}")
    _require(
        done.stdout.strip() == "[]",
        f"importing {name} loads {done.stdout.strip()}; import them inside the functions that need them",
    )


class _Workbench:
    """One backend with its artifact, the reference to judge it by, and the checks that need both."""

    def __init__(
        self,
        backend_class: type[Backend],
        variant: str,
        model: str,
        device: str,
        precision: str,
        root: Path,
        shapes: Sequence[tuple[int, int]] = SHAPES,
        task: str = "base",
    ) -> None:
        from exporters.sources import resolve

        self.backend_class, self.variant, self.device, self.precision, self.root = (
            backend_class, variant, device, precision, root,
        )  # fmt: skip
        self.shapes = shapes
        self.source: ModelSource = resolve(model, weights="random", task=task)
        self.options = self._variants()[variant]
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

    def _inputs(self, shape: tuple[int, int], seed: int = 0) -> InputPlan:
        from bench.parity.inputs import InputPlan, timed_cases

        vocabulary, padding, width = self.source.vocab_size, self.source.pad_token_id, self.source.width
        return InputPlan(*shape, vocabulary, padding, seed, width, timed_cases(shape[1]))

    def _outputs(self, backend: Backend, batch: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
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
        raise ContractError(f"{self.backend_class.spec.name} loads an artifact folder that does not exist")

    def check_shapes(self) -> None:
        """At every shape it repeats itself bit for bit, keeps its inputs, and returns memory of its own."""
        import numpy as np

        from bench.parity.inputs import make_batch

        name, backend = self.backend_class.spec.name, self._loaded()
        first: dict[tuple[tuple[int, int], str], np.ndarray[Any, Any]] = {}
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
                earlier = first.setdefault((shape, key), array.copy())
                _require(
                    np.array_equal(earlier, array, equal_nan=True),
                    f"{name} differs from its own first output at {shape}",
                )
                array[...] = 0
            again = self._outputs(backend, batch)
            same = all(np.array_equal(again[key], first[shape, key], equal_nan=True) for key in again)
            _require(same, f"{name} does not repeat itself at {shape}, or hands out memory that it uses again")
            _require(
                all(np.array_equal(before[key], batch[key]) for key in batch), f"{name} changes its inputs at {shape}"
            )
        other = self._outputs(backend, make_batch(self._inputs(self.shapes[1], seed=1), "timed"))
        _require(
            any(not np.array_equal(array, first[self.shapes[1], key]) for key, array in other.items()),
            f"{name} returns the same for other inputs",
        )
        json.dumps(backend.facts())
        self._check_watching(backend)
        self._check_inner_values(backend)
        if clock := abilities.clock_of(backend):
            start, end = clock.mark(), clock.mark()
            backend.synchronize()
            _require(clock.elapsed_ns(start, end) >= 0, f"{name}'s device clock runs backwards")
        abilities.trim(backend)
        backend.close()

    def _check_settled(
        self,
        early: Mapping[str, np.ndarray[Any, Any]],
        settled: Mapping[str, np.ndarray[Any, Any]],
        shape: tuple[int, int],
    ) -> None:
        """A call that the backend declares to settle in is off by rounding at most."""
        import numpy as np

        from bench.parity.verdict import LOCAL_FACTOR, TOLERANCES

        share = LOCAL_FACTOR * (TOLERANCES[self.precision].max_rms_share or SETTLING_SHARE)
        for key, array in settled.items():
            difference = np.abs(early[key].astype(np.float64) - array).max(initial=0.0)
            rms = float(np.sqrt(np.mean(np.square(array.astype(np.float64)))))
            _require(
                early[key].shape == array.shape and difference <= share * rms,
                f"{self.backend_class.spec.name}'s first calls at {shape} are off its later ones by {difference:.1e}",
            )

    def _check_watching(self, backend: Backend) -> None:
        """A watched call is the same call, and memory is told in bytes."""
        import numpy as np

        from bench.parity.inputs import make_batch

        prepared = backend.prepare(make_batch(self._inputs(self.shapes[0]), "timed"))
        plain = backend.fetch(backend.run(prepared))
        abilities.reset_peak(backend)
        outputs, seen = abilities.watched(backend, prepared)
        backend.synchronize()
        json.dumps(seen)
        same = all(np.array_equal(array, plain[key], equal_nan=True) for key, array in backend.fetch(outputs).items())
        _require(same, f"{backend.spec.name} computes something else while it is watched")
        held = abilities.held(backend)
        _require(
            all(isinstance(value, int) and value >= 0 and key.endswith("_bytes") for key, value in held.items()),
            f"{backend.spec.name} tells memory that is no count of bytes: {held}",
        )

    def _check_inner_values(self, backend: Backend) -> None:
        """Where values inside the model can be asked for, the outputs are among them and stay the same."""
        import numpy as np

        from bench.parity.inputs import make_batch

        if not isinstance(backend, InnerValues):
            return
        name, batch = self.backend_class.spec.name, make_batch(self._inputs(self.shapes[1]), "timed")
        try:
            values = backend.inner_values()
        except UnsupportedError:
            return
        plain = self._outputs(backend, batch)
        found, changed = backend.run_inner(batch, list(plain))
        _require(bool(values), f"{backend.spec.name} can be asked for inner values and has none")
        _require(
            set(changed) == {"undone", "notes"}, f"{backend.spec.name} does not say what asking for values changed"
        )
        same = all(np.array_equal(found[name], array, equal_nan=True) for name, array in plain.items())
        _require(same, f"{name} computes something else when it is asked for values")

    def check_outputs(self) -> None:
        """Its outputs are the model's, against eager in float64, with and without padded masks."""
        if not self.backend_class.spec.computes_the_model:
            return
        from backends.eager import Eager
        from bench.parity import metrics, verdict
        from bench.parity.inputs import make_batch
        from bench.parity.reference import EAGER_PRECISIONS
        from exporters.checkpoint import open_checkpoint

        if self.weights is None:
            return
        backend, references = self._loaded(), []
        of_eager = EAGER_PRECISIONS.get(self.precision, self.precision)
        # Eager has no int8, so its error there is not to be had, and all that is asked is to stay within the budget.
        passing = ("exact", "equivalent") if of_eager == self.precision else ("exact", "equivalent", "lossy")
        for precision, device in (("fp64", "cpu"), (of_eager, self.device)):
            eager = Eager(open_checkpoint=open_checkpoint)
            eager.load(self.weights.path, device=device, precision=precision, threads=1, options={})
            references.append(eager)
        tolerance = verdict.TOLERANCES[self.precision]
        for shape in self.shapes:
            plan = self._inputs(shape)
            for case in plan.cases:
                batch = make_batch(plan, case)
                expected, own = (self._outputs(eager, batch) for eager in references)
                figures = metrics.compare(
                    self._outputs(backend, batch), expected, own, batch["attention_mask"], self.precision,
                    tolerance.atol, tolerance.rtol,
                )  # fmt: skip
                judged = verdict.judge(figures, tolerance)
                _require(
                    judged["verdict"] in passing,
                    f"{backend.spec.name} is {judged['verdict']} at {shape}, {case}: {judged['reason']}",
                )
        for loaded in (backend, *references):
            loaded.close()

    def check_close(self) -> None:
        """It may be closed twice, and loads again afterwards."""
        for _ in range(2):
            backend = self._loaded()
            backend.close()
            backend.close()
