"""The group of all commands; those of workloads are made when they are asked for."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from bench.cli.streams import tell


class Commands(TyperGroup):
    """Commands of the files in this package, and one of each workload, third-party ones too.

    A workload is imported if its command runs or its help is shown, and for the list of all commands.
    """

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.of_workloads: list[str] = []

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands, those of workloads first."""
        from bench.run import registry

        for workload in registry.names():
            self._add(workload)
        return [*self.of_workloads, *(name for name in self.commands if name not in self.of_workloads)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command with this name, or None. Raises UserError if its workload cannot be loaded."""
        from bench.run import registry

        if cmd_name in self.commands:
            return self.commands[cmd_name]
        names = registry.names()
        if cmd_name in names:
            registry.load_class(cmd_name)
        for workload in sorted(names, key=lambda name: name != cmd_name):
            if cmd_name not in self.commands:
                self._add(workload)
        return self.commands.get(cmd_name)

    def _add(self, workload: str) -> None:
        """Make the command of a workload; one that cannot be loaded costs a line and no other command."""
        from bench.cli import measure, spellings
        from bench.errors import UserError
        from bench.run import registry

        try:
            found = registry.load_class(workload)
            name = found.Options.command
            if name in self.commands:
                if workload not in registry.BUILT_IN and name not in self.of_workloads:
                    tell(f"bench: workload {workload!r} has no command, as bench {name} is another's; rename it")
                return
            app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
            older = spellings.of_options(found.Options) | spellings.OF_FORMATS
            app.command(name, cls=spellings.taking(older))(measure.command_for(found))
        except UserError as error:
            tell(f"bench: {error}")
            return
        self.commands[name] = typer.main.get_command(app)
        self.of_workloads.append(name)
