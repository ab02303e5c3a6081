"""`bench verify`: does a bundle still hold; or does a certificate belong to an artifact, and its check come out?"""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli import spellings
from bench.cli.options import Json, Markdown, Quiet, Silence
from bench.cli.streams import stopping, tell, teller
from bench.errors import UserError

OLD_SPELLINGS = spellings.OF_FORMATS | {"--format markdown": "--markdown"}


def command(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="TARGET",
            help="Bundle's folder, of bench deploy; or with ARTIFACT the file of bench parity --output.",
        ),
    ],
    artifact: Annotated[
        Path | None,
        typer.Argument(metavar="ARTIFACT", help="Artifact's folder, or a file in it.", show_default=False),
    ] = None,
    envelope: Annotated[
        str | None,
        typer.Option(
            help="A bundle's times: auto (held on the run's machine, told elsewhere), strict (held anywhere), "
            "off (not measured). [default: auto]"
        ),
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE", help="Share by which a bundle's median may exceed the envelope's. [default: 20%]"
        ),
    ] = None,
    manifest_sha256: Annotated[
        str | None, typer.Option("--manifest-sha256", help="SHA-256 that bench deploy printed of the manifest.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Where the model lies now, if it is a folder that has moved.")
    ] = None,
    module: Annotated[
        str | None, typer.Option(help="Your own module that was certified, path/to/file.py:FUNCTION; it is imported.")
    ] = None,
    python: Annotated[
        list[str] | None,
        typer.Option(metavar="BACKEND=PATH", help="Interpreter that a backend was certified with. May be repeated."),
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Where the tokenizer lies now, if it has moved.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda. [default: the certificate's]")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads. [default: the certificate's]")] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Load TorchScript, AOTInductor or pickles of a maker that you trust.")
    ] = False,
    timeout: Silence = "15m",
    json: Json = False,
    markdown: Markdown = False,
    artifacts: Annotated[
        Path | None, typer.Option(help="Folder for the model and references. [default: artifacts]")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Prove a bundle again: files, parity, times. Or a certificate: does it belong to an artifact, and still hold?"""
    of_bundles = {"envelope": envelope, "threshold": threshold, "manifest_sha256": manifest_sha256}
    of_certificates = {
        "model": model, "module": module, "python": python or None, "tokenizer": tokenizer, "device": device,
        "threads": threads,
    }  # fmt: skip
    if json and markdown:
        raise UserError("--json and --markdown ask for two; leave one out")
    with stopping("nothing was verified"):
        if artifact is None:
            further = {"artifacts": artifacts, "markdown": markdown or None}
            _check_none(of_certificates | further, "a certificate with its artifact", "a bundle alone")
            raise typer.Exit(_verify_bundle(target, timeout, json, quiet, trust, **of_bundles))
        _check_none(of_bundles, "a bundle", "a certificate")
        from bench.report import console, documents
        from bench.verify import verify

        found = verify(
            target, artifact, model=model, module=module, python=python or (), tokenizer=tokenizer, device=device,
            threads=threads, trust=trust, timeout=timeout, artifacts=artifacts or Path("artifacts"), say=teller(quiet),
        )  # fmt: skip
    if json:
        print(dumps(found.to_json(), indent=2))
    else:
        print((documents.as_markdown if markdown else console.render)(found.repeated), end="")
        for line in found.lines:
            tell(line)
    raise typer.Exit(found.exit_code)


def _check_none(options: dict[str, Any], whose: str, given: str) -> None:
    """Raise UserError if an option of the other way to verify was given."""
    if wrong := [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]:
        raise UserError(f"{', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} for {whose}, and {given} takes none")


def _verify_bundle(
    folder: Path,
    timeout: str,
    as_json: bool,
    is_quiet: bool,
    trust: bool,
    envelope: str | None,
    threshold: str | None,
    manifest_sha256: str | None,
) -> int:
    """Prove a bundle again and print what came out; returns the exit code."""
    from bench.bundle.envelope import THRESHOLD
    from bench.bundle.verify import verify_bundle
    from bench.report import bundle
    from bench.spec import parse_share

    if folder.is_file():
        raise UserError(f"{str(folder)!r} is a file; give a bundle's folder, or the artifact beside a certificate")
    share = THRESHOLD if threshold is None else parse_share(threshold, "--threshold")
    found = verify_bundle(
        folder, envelope=envelope or "auto", threshold=share, manifest_sha256=manifest_sha256, trust=trust,
        timeout=timeout, say=teller(is_quiet),
    )  # fmt: skip
    print(bundle.render(found, "json" if as_json else "table"), end="")
    return found.exit_code
