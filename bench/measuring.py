"""Functions that measure, each made from the options that its workload declares: compare, measure_load and so on.

`bench.measuring.NAME` is the function of the workload whose options say so, of third-party ones too.
"""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, get_type_hints

from bench.errors import UserError
from bench.run.experiment import measure, resume
from bench.run.file import read_run

if TYPE_CHECKING:
    from bench.run.listener import Listener
    from bench.run.model import MakeInputs
    from bench.run.record import Run
    from bench.run.workload import Workload

    class Measuring(Protocol):
        """A function that measures one workload."""

        def __call__(
            self,
            model: Any = None,
            *,
            make_inputs: MakeInputs | None = None,
            listener: Listener | None = None,
            **options: Any,
        ) -> Run: ...

    check_parity: Measuring
    compare: Measuring
    generate: Measuring
    measure_corpus: Measuring
    measure_load: Measuring
    measure_memory: Measuring

__all__ = [
    "check_parity",
    "compare",
    "function_for",
    "generate",
    "measure_corpus",
    "measure_load",
    "measure_memory",
    "read_run",
    "resume",
]

_DOCUMENTATION = """{summary}

`model` is a name, a folder, a Hub id, or a torch.nn.Module in memory; with a module goes
`make_inputs(batch, length, seed)`, which returns name -> array or tensor, batch first, in the order of forward's
arguments. Without it the module is a language model with a `vocab_size`, and forward takes input_ids, and
attention_mask if it has an argument of that name. `listener` is told how the run goes on.

Options are given as on the command line ("1,8", "2m", "2%") or as values ([1, 8], 120, 0.02); None stands for the
default:

{options}

Records are in a file as they come. Returns the Run. Raises UserError for wrong input before anything starts, and
BenchError if the run cannot go on.
"""
_INDENT = " " * 4
_WIDTH = 100


def function_for(workload: type[Workload]) -> Measuring:
    """The function of the API that measures a workload."""
    options = workload.Options

    def function(
        model: Any = None,
        *,
        make_inputs: MakeInputs | None = None,
        listener: Listener | None = None,
        **given: Any,
    ) -> Run:
        is_named = isinstance(model, str | Path)
        if model is not None and not is_named and given.get("module") is not None:
            raise UserError(f"module {given['module']!r} and a {type(model).__name__} are two models; leave one out")
        settled = options.parsed({"model": str(model), **given} if is_named else given)
        return measure(workload, settled, listener, model=None if is_named else model, make_inputs=make_inputs)

    function.__name__ = function.__qualname__ = name_of(workload)
    function.__doc__ = _documentation(workload)
    function.__signature__ = _signature(workload, inspect.signature(function))  # type: ignore[attr-defined]
    return function


def name_of(workload: type[Workload]) -> str:
    """Name of the function that measures a workload."""
    return workload.Options.function or f"measure_{workload.Options.command}"


def _signature(workload: type[Workload], of: inspect.Signature) -> inspect.Signature:
    """The three parameters that every function has, then the options."""
    types = get_type_hints(workload.Options)
    options = [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=types[one.name])
        for one in workload.Options.declared()
        if one.name != "model"
    ]
    common = [one for one in of.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    return of.replace(parameters=[*common, *options])


def _documentation(workload: type[Workload]) -> str:
    from bench.described import default_shown
    from bench.options import declaration

    lines = []
    for one in workload.Options.declared():
        if one.name == "model":
            continue
        default = default_shown(one)
        says = f"{one.name}: {declaration(one).help}" + (f" [default: {default}]" if default else "")
        lines += textwrap.wrap(says, _WIDTH, initial_indent=_INDENT, subsequent_indent=2 * _INDENT)
    return _DOCUMENTATION.format(summary=workload.Options.summary, options="\n".join(lines))


def __getattr__(name: str) -> Any:
    from bench.run import registry

    for workload in registry.names() if not name.startswith("_") else ():
        found = registry.load_class(workload)
        if name_of(found) == name:
            globals()[name] = function_for(found)
            return globals()[name]
    raise AttributeError(f"module 'bench.measuring' has no attribute {name!r}")
