"""The command line: one file a command. Errors become one line here, and exit codes are set here alone.

Exit codes: 0 every measured cell is equivalent or better, and what was to be decided is; 1 anything else; 2 the user's
mistake; 3 some backend is broken, or a bundle is not what was deployed; 4 a run is slower than an earlier one, or has
lost cells of it, or a bundle is slower than its envelope; 5 no runtime keeps what was asked; 6 undecided, so that more
rounds are needed; 130 and 143 stopped by a signal. `bench.errors.PRECEDENCE` says which of several counts.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from bench import __version__
from bench.cli import artifacts, choose, deploy, diff, doctor, env, list_, report, show, spellings, study, tune, verify
from bench.cli.group import Commands
from bench.cli.streams import Plain, mute, stopped, tell, will_say_it
from bench.errors import BenchError
from bench.untrusted import short

app = typer.Typer(
    name="bench",
    cls=Commands,
    help="Which inference runtime to deploy a model on, on this machine, and is it still the same model?",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
Handler = Callable[[int, FrameType | None], None]
for _command in (choose, tune, verify, deploy, report, show, diff, study, doctor):
    _name = _command.__name__.rpartition(".")[2]
    app.command(_name, cls=spellings.taking(getattr(_command, "OLD_SPELLINGS", {})))(_command.command)
app.add_typer(list_.app, name="list")
app.add_typer(artifacts.app, name="artifacts")
app.add_typer(env.app, name="env")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"runtimebench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        from bench.cli.first import steps

        typer.echo(steps(Path("artifacts")))


def main() -> None:
    """Run the command line, once its modules are imported; `bench.__main__` is the entry point."""
    from exporters.errors import ModelError
    from exporters.store import StoreError

    # A stream that was closed by the caller is None here; print would send standard error's lines to the other.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, PTH123
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.stdout, sys.stderr = Plain(sys.stdout), Plain(sys.stderr)
    try:
        will_say_it()
        _on_signals(signal.default_int_handler, _terminated)
        code = app(standalone_mode=False)
        sys.stdout.flush()
        if code == 130:
            stopped()
    except (BenchError, ModelError, StoreError) as error:
        _fail(str(error), getattr(error, "exit_code", 2))
    except KeyboardInterrupt:
        stopped()
        raise SystemExit(130) from None
    except SystemExit as error:
        if error.code == 143:
            stopped()
        raise
    except OSError as error:
        mute(1)
        _fail("" if isinstance(error, BrokenPipeError) else f"{error.strerror or error}", 1)
    except Exception as error:
        _fail_in_usage(error)
        if "BENCH_TRACEBACK" in os.environ:
            raise
        _fail(f"a mistake of bench's own ({type(error).__name__}: {error}); BENCH_TRACEBACK=1 shows where", 1)
    finally:
        _on_signals(_leave, _leave)
    raise SystemExit(code if isinstance(code, int) else 0)


def _fail_in_usage(error: Exception) -> None:
    """End with one line where typer found the command line wrong; it says so by exceptions of click's shape."""
    if type(error).__name__ == "Abort":
        raise SystemExit(130) from None
    if not hasattr(error, "format_message"):
        return
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message(), file=sys.stderr)
        raise SystemExit(2) from None
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "bench"
    _fail(f"{error.format_message().rstrip('.')}; see `{command} --help`", 2)


def _fail(message: str, code: int) -> NoReturn:
    if message:
        tell(f"bench: {short(' '.join(message.split()))}")
    raise SystemExit(code) from None


def _on_signals(on_interrupt: Handler, on_termination: Handler) -> None:
    signal.signal(signal.SIGTERM, on_termination)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, on_interrupt)


def _leave(number: int, frame: object) -> None:
    """End a process that has said all, and that could only print a traceback."""
    os._exit(128 + number)


def _terminated(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
