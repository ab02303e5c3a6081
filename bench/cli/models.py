"""Which model a command line names: by --model, or by --module for the user's own."""

from __future__ import annotations

import typer

#: Help of every command's --module.
MODULE_HELP = "Your own model: path/to/file.py:FUNCTION that returns a torch.nn.Module; see the README."


def model_of(context: typer.Context, model: str, module: str | None, weights: str = "auto") -> tuple[str, str]:
    """Name and weights as `bench.introduction.find_source` takes them; raises UserError where both are given."""
    from bench.errors import UserError
    from bench.spec import MODULE

    if module is None:
        return model, weights
    for name in ("model", "weights", "task"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UserError(f"--{name} cannot be given with --module, whose function settles it; leave one of them out")
    return module, MODULE
