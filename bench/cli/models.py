"""Which model a command line names: by --model, or by --module for the user's own."""

from __future__ import annotations

from typing import TypeVar

import typer

#: A name, or the names of several models.
Model = TypeVar("Model", str, list[str])


def model_of(
    context: typer.Context, model: Model, module: str | None, weights: str = "auto"
) -> tuple[Model | str, str]:
    """Name and weights as `bench.run.model.find_source` takes them; raises UserError where both are given."""
    from bench.errors import UserError
    from bench.spec import MODULE

    if module is None:
        return model, weights
    for name in ("model", "weights", "task"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UserError(f"--{name} cannot be given with --module, whose function settles it; leave one of them out")
    return module, MODULE
