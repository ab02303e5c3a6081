"""Parts of chaos.py that strike files: flipped bytes and cuts, and wrong types in every field."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chaos_processes import SAMPLES, SHORT, Trials, words_of
from benchmarks.chaos_rules import ROOT, STARTED, Ended, World, call, faults_of, fork

JUDGED = f"compare --model bert-tiny --backends eager,onnx --shapes 1x4,1x8 {SHORT}"
CERTIFIED = "parity --model bert-tiny --backends onnx --batches 1 --lengths 4 --masks full"


@dataclass(frozen=True)
class Things:
    """Files of every kind as bench writes them, sound."""

    runs: tuple[Path, ...]
    certificate: Path
    bundle: Path
    artifacts: tuple[Path, ...]


def made(world: World, is_short: bool) -> Things:
    """What bench makes of each kind; kept in the world, as it takes a minute. The short form has runs alone."""
    folder = world.folder / "things"
    runs = []
    for name, sample in SAMPLES.items():
        runs.append(folder / f"{name}.jsonl")
        if not runs[-1].exists() and not (is_short and name != "forward"):
            _make(words_of(sample, world.store, runs[-1]), world)
    golden = [ROOT / "tests" / "golden" / "runs" / f"{name}.jsonl" for name in ("compare", "tune", "generate", "load")]
    runs = [*filter(Path.exists, [*runs, *golden])]
    bundle, certificate, measured = folder / "bundle", folder / "certificate.jsonl", folder / "measured.jsonl"
    if not is_short and not bundle.exists():
        shared = ["--device", "cpu", "--threads", "1", "--artifacts", str(world.store)]
        _make([*JUDGED.split(), *shared, "--output", str(measured)], world)
        _make([*CERTIFIED.split(), *shared, "--output", str(certificate)], world)
        deploy = ["deploy", str(measured), "--choose", "onnx", "--output", str(bundle)]
        _make([*deploy, "--artifacts", str(world.store)], world)
    artifacts = sorted((world.store / "store").glob("[!.]*-*")) if not is_short else []
    return Things(tuple(runs), certificate, bundle, tuple(artifacts))


def _make(words: list[str], world: World) -> None:
    ended = call(words, world.folder, 300)
    if ended.code not in (0, 1, 6):
        raise SystemExit(f"chaos: {' '.join(words)} ended with {ended.code}: {ended.errors[-400:]}")


# Flipped bytes and cuts.


def flip_or_cut(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """One bit flipped, one byte replaced, a cut at the end, or a hole."""
    at = rng.randrange(len(content))
    kind = rng.choice(("bit", "byte", "cut", "hole"))
    if kind == "cut":
        return content[:at], f"cut at {at} of {len(content)}"
    if kind == "hole":
        size = rng.randint(1, 64)
        return content[:at] + content[at + size :], f"{size} bytes lost at {at}"
    new = content[at] ^ (1 << rng.randrange(8)) if kind == "bit" else (content[at] + rng.randint(1, 255)) % 256
    return content[:at] + bytes([new]) + content[at + 1 :], f"{kind} at {at}: {content[at]:#04x} to {new:#04x}"


def damage(world: World, draw: Callable[[int], random.Random], numbers: range, is_short: bool = False) -> Trials:
    """One file of a sound whole is damaged; reading it says so, and nothing that it holds is started."""
    things = made(world, is_short)
    kinds = ["run"] if is_short else ["run", "certificate", "artifact", "bundle"]
    for number in numbers:
        rng = draw(number)
        kind = kinds[number % len(kinds)]
        if kind in ("run", "certificate"):
            path = rng.choice(things.runs) if kind == "run" else things.certificate
        else:
            path = _file_in(rng.choice(things.artifacts) if kind == "artifact" else things.bundle, rng)
        sound = path.read_bytes()
        if not sound:
            yield f"{kind} {path.name}: empty, so left", []
            continue
        wrong, what = flip_or_cut(sound, rng)
        words, target = _reader_of(kind, path, things, world, rng)
        if target != path:
            target.write_bytes(wrong)
            ended = fork(words, world.folder)
            target.unlink()
        else:
            path.write_bytes(wrong)
            ended = fork(words, world.folder)
            path.write_bytes(sound)
        found = faults_of(ended, world)
        if not _is_told(kind, words, ended) and not _is_same(path, sound, wrong):
            found.append(f"accepted with exit code {ended.code}: {' '.join(words)}")
        yield f"{kind} {path.name}: {what}", found


def _file_in(folder: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))


def _reader_of(
    kind: str, path: Path, things: Things, world: World, rng: random.Random
) -> tuple[list[str], Path]:  # fmt: skip
    """A command that reads the damaged file, and where it is to lie."""
    if kind == "run":
        copy_of = world.path("damaged.jsonl")
        reports = [["report"], ["report", "--json"], ["report", "--csv"], ["report", "--markdown"], ["choose"]]
        first, *rest = rng.choice(reports)
        return [first, str(copy_of), *rest], copy_of
    if kind == "certificate":
        copy_of = world.path("certificate.jsonl")
        folder = next(one for one in things.artifacts if one.name.startswith("onnx-"))
        return ["verify", str(copy_of), str(folder), "--artifacts", str(world.store)], copy_of
    if kind == "artifact":
        return ["artifacts", "verify", "--artifacts", str(world.store)], path
    return ["verify", str(things.bundle)], path


def _is_told(kind: str, words: Sequence[str], ended: Ended) -> bool:
    """True if the call named the damage, and went no further than it may with a damaged file."""
    if kind == "artifact":
        return ended.code == 3 and "damaged" in ended.output
    if kind == "bundle":
        return ended.code in (2, 3) and STARTED not in ended.errors
    if kind == "certificate" or words[0] == "choose":
        return ended.code == 2 and STARTED not in ended.errors
    # A report of a damaged run may show its figures, under the word that says what they are worth.
    return ended.code == 2 or any(one in ended.said.lower() for one in ("altered", "cut:", '"cut"', "damaged"))


def _is_same(path: Path, sound: bytes, wrong: bytes) -> bool:
    """True for a change that changes nothing: white space in JSON, whose checksum is over what it says."""
    if path.suffix != ".json":
        return sound == wrong
    try:
        return bool(json.loads(sound) == json.loads(wrong))
    except ValueError:
        return False


# Wrong types.


def wrong_values(world: World) -> list[Any]:
    """What no field expects; some would leave a canary if they were run, imported or sourced."""
    script = world.folder / "evil.sh"
    if not script.exists():
        canary = world.canaries / "script"
        script.write_text(f"#!/bin/sh\ntouch {canary}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        (world.folder / "evil.py").write_text(f"open({str(world.canaries / 'module')!r}, 'w').close()\n")
        (world.folder / "evil.pkl").write_bytes(
            b"cposix\nsystem\n(S'touch " + str(world.canaries / "pickle").encode() + b"'\ntR."
        )
    shell = f"$(touch {world.canaries / 'shell'})"
    return [
        None, True, 0, -1, 2**63, 1e308, float("nan"), "", "x" * 100_000, [], {}, [[]], [None], {"": None}, {"a": {}},
        "../" * 9 + "etc/passwd", "/dev/zero", str(script), f"{world.folder / 'evil.py'}:make", shell, "a\nb",
        "\x1b[31m", f"onnx={script}", [f"onnx={script}"], {"onnx": str(script)}, "\ud800",
        "1.0\n--extra-index-url http://x.invalid/",
    ]  # fmt: skip


def fields_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a document every field is; of a list the first and the last."""
    yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from fields_of(inner, (*path, name))
    elif isinstance(value, list):
        for at in sorted({0, len(value) - 1}) if value else []:
            yield from fields_of(value[at], (*path, at))


def put(document: Any, path: Sequence[Any], value: Any) -> Any:
    """A copy of a document with another value in one place."""
    if not path:
        return value
    changed = copy.deepcopy(document)
    inner = changed
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return changed


def types(world: World, draw: Callable[[int], random.Random], numbers: range, is_short: bool = False) -> Trials:
    """Another type in one field, with a seal made anew or left, and any command that reads such a file."""
    things = made(world, is_short)
    values = wrong_values(world)
    for number in numbers:
        rng = draw(number)
        kind = "run" if is_short else ("run", "run", "bundle", "input")[number % 4]
        wrong = {"run": _wrong_in_run, "bundle": _wrong_in_bundle, "input": _wrong_in_input}[kind]
        what, words, folder = wrong(world, things, values, rng)
        found = faults_of(fork(words, world.folder), world)
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
        yield f"{' '.join(words[:1])} {what}", found


def _wrong_in_run(
    world: World, things: Things, values: list[Any], rng: random.Random
) -> tuple[str, list[str], Path]:  # fmt: skip
    source = rng.choice(things.runs)
    path = world.path("typed.jsonl")
    content, what = _with_wrong_field(source.read_bytes(), values, rng)
    path.write_bytes(content)
    name, store = str(path), ["--artifacts", str(world.store)]
    command = json.loads(source.read_bytes().split(b"\n")[0]).get("options", {}).get("command", "compare")
    command = command if command in ("tune",) else SAMPLES.get(source.stem, SAMPLES["forward"]).command
    readers = [
        ["report", name], ["report", name, "--json"], ["report", name, "--csv"], ["report", name, "--markdown"],
        ["choose", name], ["choose", name, "--json"], ["diff", name, str(source)], ["study", name],
        ["diff", str(source), name, "--json"], [command, "--resume", name, *store],
        ["deploy", name, "--output", str(world.path("b")), *store],
        ["report", name, "--output", str(world.path("page.html"))],
    ]  # fmt: skip
    if things.artifacts:
        readers.append(["verify", name, str(things.artifacts[-1]), *store])
    return f"{source.name}: {what}", rng.choice(readers), path


def _with_wrong_field(content: bytes, values: list[Any], rng: random.Random) -> tuple[bytes, str]:
    """One field of one line changed; a kind of line is drawn first, and in three of four the seal is made anew."""
    lines = content.splitlines()
    kinds: dict[str, list[int]] = {}
    for at, line in enumerate(lines):
        kinds.setdefault(json.loads(line)["kind"], []).append(at)
    at = rng.choice(kinds[rng.choice(sorted(kinds))])
    document = json.loads(lines[at])
    path, value = rng.choice(list(fields_of(document))), rng.choice(values)
    lines[at] = json.dumps(put(document, path, value)).encode()
    if rng.random() < 0.75 and b'"seal"' in lines[-1] and at < len(lines) - 1:
        seal = json.loads(lines[-1])
        seal["sha256"] = hashlib.sha256(b"".join(line + b"\n" for line in lines[:-1])).hexdigest()
        lines[-1] = json.dumps(seal, separators=(",", ":")).encode()
    return b"".join(line + b"\n" for line in lines), f"{'.'.join(map(str, path))} = {value!r:.40}"


def _wrong_in_bundle(
    world: World, things: Things, values: list[Any], rng: random.Random
) -> tuple[str, list[str], Path]:  # fmt: skip
    """A bundle with one wrong field in any of its files, every checksum made anew."""
    from bench.bundle import manifest

    folder = world.path("bundle")
    shutil.copytree(things.bundle, folder)
    target = _file_in(folder, rng) if rng.random() < 0.3 else folder / rng.choice([manifest.FILE, manifest.CERTIFICATE])
    what = "nothing"
    if target.suffix == ".jsonl":
        content, what = _with_wrong_field(target.read_bytes(), values, rng)
        target.write_bytes(content)
    elif target.name == "artifact.json":
        document = json.loads(target.read_text())
        path, value = rng.choice(list(fields_of(document))), rng.choice(values)
        target.write_text(json.dumps(put(document, path, value)))
        what = f"{'.'.join(map(str, path))} = {value!r:.40}"
    body = json.loads((folder / manifest.FILE).read_text())
    body.pop("checksum")
    body["files"] = {
        name: {"sha256": one.sha256, "bytes": one.bytes} for name, one in manifest.checksums(folder).items()
    }
    if target.name == manifest.FILE:
        path, value = rng.choice(list(fields_of(body))[1:]), rng.choice(values)
        body = put(body, path, value)
        what = f"{'.'.join(map(str, path))} = {value!r:.40}"
    (folder / manifest.FILE).write_text(manifest.sealed(body))
    return f"bundle {target.name}: {what}", ["verify", str(folder)], folder


PRESET = (
    'title = "Short"', 'source = "a log"', 'model = "bert-tiny"', 'backends = ["null"]', "shapes = [[1, 4]]",
    "rounds = 2", 'precisions = ["fp32"]', "grad = false", "naive_timer = false", 'task = "base"',
    'figures = "rtx3090"',
)  # fmt: skip
WRONG_TOML = ("true", "-1", "nan", '""', "[]", "{}", "[[]]", "[[1]]", "1979-05-27", '"/dev/zero"', f'"{"x" * 9000}"')


def _wrong_in_input(
    world: World, things: Things, values: list[Any], rng: random.Random
) -> tuple[str, list[str], Path]:  # fmt: skip
    """A wrong field in what a user or a library gives: traffic, a model's config, a store's manifests and limits."""
    folder = world.path("input")
    document: Any
    store, kind = folder / "store", rng.choice(("traffic", "config", "peaks", "artifact", "preset", "environment"))
    shutil.copytree(world.store / "machine", store / "machine")
    checkpoint = next(path for path in things.artifacts if path.name.startswith("checkpoint-"))
    shutil.copytree(checkpoint, folder / "model")
    shutil.copytree(checkpoint, store / "store" / checkpoint.name)
    run = ["compare", "--backends", "null", "--shapes", "1x4", "--device", "cpu", "--artifacts", str(store), "--model"]
    if kind == "preset":
        path, lines = folder / "preset.toml", [*PRESET]
        at = rng.randrange(len(lines))
        lines[at] = f"{lines[at].split(' = ')[0]} = {rng.choice(WRONG_TOML)}"
        path.write_text("\n".join(lines))
        more = ["--backends", "null", "--device", "cpu", "--artifacts", str(store)]
        return f"preset: {lines[at]:.60}", ["compare", "--preset", str(path), *more], folder
    if kind == "environment":  # made by hand, which no store's is; its interpreter is a canary
        path = store / "environments" / "null" / "environment.json"
        document = {"requirements": "0" * 64, "versions": {"python": "3.11.7"}}
        (path.parent / "bin").mkdir(parents=True)
        shutil.copy2(world.folder / "evil.sh", path.parent / "bin" / "python")
        words = rng.choice(([*run, "bert-tiny"], ["env", "list", "--artifacts", str(store)]))
    elif kind == "traffic":
        path, document = folder / "traffic.jsonl", {"batch": 1, "length": 8, "count": 2}
        words = ["choose", str(things.runs[0]), "--traffic", str(path)]
    elif kind == "config":
        path, words = folder / "model" / "config.json", [*run, str(folder / "model")]
        document = json.loads(path.read_text())
    elif kind == "peaks":
        path, words = next((store / "machine").glob("*.json")), [*run, "bert-tiny"]
        document = json.loads(path.read_text())
    else:
        path = store / "store" / checkpoint.name / "artifact.json"
        of_store = ["artifacts", rng.choice(("list", "verify", "prune")), "--artifacts", str(store)]
        words = rng.choice((of_store, [*run, "bert-tiny"]))
        document = json.loads(path.read_text())
    field, value = rng.choice(list(fields_of(document))), rng.choice(values)
    path.write_text(json.dumps(put(document, field, value)))
    return f"{kind}: {'.'.join(map(str, field))} = {value!r:.40}", words, folder
