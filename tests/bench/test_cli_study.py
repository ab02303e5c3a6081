"""`bench study` from files to page: what is read of each kind of run, what stands on the page, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import bench
from bench.errors import BenchError, UserError
from bench.machine.roofline import Peaks
from bench.packing import Packing, Summary
from bench.report import study as page
from bench.report.page import render
from bench.run.record import Model, Record, Turn
from bench.spec import Shape
from bench.study.reading import read_figures
from bench.workloads.corpus import Corpus
from bench.workloads.generate import Batch, Generate
from bench.workloads.load import Load, Rate
from bench.workloads.memory import Extent, Memory
from tests import made

MACHINE = {"cpu": "A CPU", "cpus": 2, "gpus": [], "versions": {"torch": "2.13.0", "rich": "15.0.0"}}
FORMATS = ("eager", "torchscript", "onnx")
SPREAD = (0.998, 0.999, 1.0, 1.001, 1.002)
EQUIVALENT = {"verdict": "equivalent"}
LOADED = {"loaded": {"parameters_bytes": 437_937_152, "process_bytes": 2**30}, "peak": {}}


def record(backend: str, batch: int, length: int, ms: float, **values: Any) -> Record:
    fields = {"memory": LOADED} | values
    return made.record(backend, Shape(batch, length), ms=[[ms * factor] for factor in SPREAD], **fields)


def compare_run(path: Path, *records: Record, model: str = "bert", **values: Any) -> str:
    run = made.run_of(records, **({"fingerprint": MACHINE} | values))
    run.started, run.model = f"2026-01-01 {path.stem}", replace(run.model, name=model)
    return made.write(run, path).name


def corpus_run(path: Path, times: dict[tuple[str, int, str], float], is_complete: bool = True, **values: Any) -> str:
    """A run over 10 sentences of 5 tokens; `times` are ms a sentence by backend, batch and order."""
    records = [
        made.record(backend, Packing(batch, order), ms=[[10 * ms * f] for f in SPREAD])
        for (backend, batch, order), ms in times.items()
    ]
    records[0] = replace(records[0], **values)
    batches = sorted({batch for _, batch, _ in times})
    run = made.run_of(records, Corpus, fingerprint=MACHINE, is_complete=is_complete, batches=batches)
    run.workload = Corpus(replace(run.options, corpus=Summary("ten", (5,) * 10, "a")))
    run.started = "2026-01-02"
    return made.write(run, path).name


def generation_run(path: Path, **values: Any) -> str:
    found = made.record(
        "eager", Batch(1), ms=[[5_400]] * 5, times={"first_token": 100, "decode": 10}, figures={"way": "cache"},
        parity=EQUIVALENT, **values,
    )  # fmt: skip
    model = Model("gpt2", "seeded random (seed 0)", "random", "c0ffee", "lm")
    run = made.run_of([found], Generate, model=model, fingerprint=MACHINE, new_tokens=512, decoding="sample")
    return made.write(run, path).name


def memory_run(path: Path) -> str:
    bytes_held = {"parameters_bytes": 466_139_136, "process_bytes": 2**30, "reserved_bytes": 2**29}
    loaded = Record(Extent(), made.candidate("eager"), "ok", memory={"loaded": bytes_held})
    tries = [{"batch": batch, "fits": True, "stored_bytes": batch * 680_000_000 + 12_345} for batch in (4, 10)]
    turns = tuple(Turn(place, figures=figures, seconds=1.0) for place, figures in enumerate(tries))
    searched = Record(Extent(512), made.candidate("eager:grad"), "ok", turns=turns)
    run = made.run_of(
        [loaded, searched], Memory, fingerprint=MACHINE, lengths=[512], largest_batch=True, memory_limit="8GiB",
        notes={"keys_and_values": {"layers": 12, "heads": 12, "head_width": 64}},
        model=Model("gpt", "seeded random", "random", "c0ffee", "base", 512),
    )  # fmt: skip
    return made.write(run, path).name


def all_kinds(folder: Path) -> list[str]:
    grid = [
        record(name, batch, length, batch * length / 8) for name in FORMATS for batch in (1, 16) for length in (8, 64)
    ]
    times = {
        (name, batch, order): 20 / batch**0.5
        for name in FORMATS
        for batch in (1, 8, 64)
        for order in ("unsorted", "sorted")
    }
    return [
        compare_run(folder / "grid.jsonl", *grid), corpus_run(folder / "corpus.jsonl", times),
        generation_run(folder / "generation.jsonl"), memory_run(folder / "memory.jsonl"),
    ]  # fmt: skip


# Reading.


def test_every_kind_of_file_becomes_flat_figures(tmp_path: Path) -> None:
    figures = read_figures([tmp_path / name for name in all_kinds(tmp_path)])
    assert [one.writer for one in figures.sources] == [
        "bench compare",
        "bench corpus",
        "bench generate",
        "bench memory",
    ]
    cell = figures.padded("bert", 16, 64, device="cpu")
    assert cell is not None and cell.is_usable
    assert (cell.ms, cell.ms_per_sample) == (128, 8)
    corpus = [one for one in figures.cells if one.order is not None]
    assert len(corpus) == 18
    assert corpus[0].ms_per_sample == pytest.approx(20)
    (generation,) = figures.generations
    assert (generation.new_tokens, generation.decoding, generation.step_rounds_ms[0]) == (512, "sample", (10.0,))
    held = figures.held_by_eager("gpt")
    assert held is not None and (held.parameters_bytes, held.context_bytes) == (466_139_136, 2**30 - 2**29)
    assert [one.bytes_per_sequence for one in figures.stored] == [pytest.approx(6.8e8)]
    assert {(one.model, one.bytes_per_sequence) for one in figures.cached} == {("gpt", 37_748_736)}


def test_a_cell_that_is_not_the_model_has_a_fault_and_no_claim_sees_it(tmp_path: Path) -> None:
    names = ("steal_seconds", "thermal_events", "throttled_periods", "quota_periods")
    busy = {"wall_seconds": 5.0, "cpu_seconds": 10.0, "other_cpu_seconds": 7.5, **dict.fromkeys(names)}
    losses: dict[str, dict[str, Any]] = {
        "eager": {"parity": {"verdict": "broken"}},
        "torchscript": {"parity": {}},
        "compile": {"operations": {"flops": 10**18, "weight_bytes": 1}},
        "null": {"parity": {}},
        "onnx": {"conditions": busy},
    }
    cells = [record(name, 1, 8, 5.0, **loss) for name, loss in losses.items()]
    peaks = Peaks("cpu", 2, {"fp32": 1e11}, ((10**8, 1e10),), "2026-01-01").to_json()
    name = compare_run(tmp_path / "run.jsonl", *cells, notes={"peaks": peaks})
    found = {cell.backend: cell for cell in read_figures([tmp_path / name]).cells}
    assert [found[one].fault for one in losses] == [
        "parity broken", "parity unjudged", "implausible: below the roofline", "computes nothing", "",
    ]  # fmt: skip
    assert found["onnx"].is_usable and found["onnx"].is_disturbed
    assert "- cpu, bert, eager fp32: parity broken (1 cell)" in page.text(bench.judge_study([tmp_path / name]))
    host = compare_run(tmp_path / "host.jsonl", record("eager", 1, 8, 5.0), boundary="host")
    assert "--boundary host" in read_figures([tmp_path / host]).cells[0].fault


# The page.


def test_the_page_names_every_claim_and_fits_a_terminal(cli_here, tmp_path: Path) -> None:
    done = cli_here("study", *all_kinds(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    study = bench.judge_study(sorted(tmp_path.glob("*.jsonl")))
    for claim, finding in study.findings:
        assert any(claim.title in line and finding.outcome in line for line in done.stdout.splitlines())
    assert sum(study.counts.values()) == len(study.findings)
    assert "45. Refuted: GPT has 124 M parameters" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "cpu, bert, unsorted sentences (3 runtimes) 1" in " ".join(done.stdout.split())
    command = "bench corpus --model bert --backends eager,torchscript,onnx --device cpu --threads 2 --batches 1,8,64"
    assert f"- file 2: {command}" in " ".join(done.stdout.split())


def test_a_page_is_written_once_and_whole(cli_here, tmp_path: Path) -> None:
    files = all_kinds(tmp_path)
    done = cli_here("study", *files, "--output", "pages/page.md", "--plots", "none")
    assert (done.returncode, done.stdout) == (0, "")
    assert [path.name for path in (tmp_path / "pages").iterdir()] == ["page.md"]
    text = (tmp_path / "pages/page.md").read_text()
    assert text.startswith("# What the study would be today\n")
    assert "| 45 | GPT has 124 M parameters | refuted |" in text
    again = cli_here("study", *files, "--output", "pages/page.md")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "exists; remove it" in again.stderr


def test_html_is_one_escaped_file_with_its_plots_within(cli_here, tmp_path: Path) -> None:
    cells = [record("eager", batch, 8, 5.0) for batch in (1, 8)]
    name = compare_run(tmp_path / "run.jsonl", *cells, model="<i>bert")
    assert cli_here("study", name, "--output", "page.html").returncode == 0
    text = (tmp_path / "page.html").read_text()
    assert text.startswith("<!doctype html>") and text.count("<table>") >= 2
    assert text.count('<figure class="chart') == 1
    assert "&lt;i&gt;bert" in text and "<i>" not in text
    assert "src=" not in text and 'href="http' not in text


def test_without_the_extra_a_line_says_how_to_get_it(cli_here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = all_kinds(tmp_path)
    monkeypatch.setattr(render, "find_spec", lambda name: None)
    done = cli_here("study", *files, "--output", "page.md")
    assert done.returncode == 0
    assert done.stderr.splitlines()[0] == f"bench: no plots, as they need jinja2 and vl_convert; {render.REMEDY}"
    for arguments in (("other.md", "--plots", "png"), ("other.html",)):
        refused = cli_here("study", *files, "--output", *arguments)
        assert refused.returncode == 2 and render.REMEDY in refused.stderr
    assert not list(tmp_path.glob("other*"))


def test_plots_stand_beside_markdown(tmp_path: Path) -> None:
    pytest.importorskip("vl_convert")
    cells = [record("eager", batch, length, 5.0) for batch in (1, 8) for length in (8, 64)]
    name = compare_run(tmp_path / "run.jsonl", *cells)
    study = bench.judge_study([tmp_path / name])
    files = bench.write_study(study, tmp_path / "svg/page.md")
    assert [path.name for path in files] == [*(f"page-{number}.svg" for number in (1, 2, 3, 4)), "page.md"]
    text = files[-1].read_text()
    for path in files[:-1]:
        assert path.read_bytes().startswith(b"<svg")
        assert f"]({path.name})" in text
    single = bench.judge_study([tmp_path / compare_run(tmp_path / "one.jsonl", *cells[:1])])
    assert [path.name for path in bench.write_study(single, tmp_path / "one.md", "png")] == ["one.md"]
    few = bench.judge_study([tmp_path / compare_run(tmp_path / "few.jsonl", *cells[::2])])
    image, _ = bench.write_study(few, tmp_path / "few.md", "png")
    assert image.read_bytes()[:4] == b"\x89PNG"


# Refusals.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.jsonl"], "cannot be read"),
        (["text.txt"], "is no run of bench"),
        (["load.jsonl"], "is no run of bench compare or bench corpus or bench generate or bench memory"),
        (["grid.jsonl", "grid.jsonl"], "are the same run"),
        (["grid.jsonl", "elsewhere.jsonl"], "are of different machines (cpu differ)"),
        (["altered.jsonl"], "was altered after it was written"),
        (["grid.jsonl", "--output", "page.pdf"], "ends neither in .md nor in .html"),
        (["grid.jsonl", "--output", "page.md", "--plots", "gif"], "unknown plots 'gif'"),
        (["grid.jsonl", "--plots", "svg"], "needs a place"),
        ([], "FILE"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(cli_here, tmp_path: Path, arguments: list[str], said: str) -> None:
    compare_run(tmp_path / "grid.jsonl", record("eager", 1, 8, 5.0))
    compare_run(tmp_path / "elsewhere.jsonl", record("eager", 1, 8, 5.0), fingerprint={**MACHINE, "cpu": "Another CPU"})
    (tmp_path / "altered.jsonl").write_text((tmp_path / "grid.jsonl").read_text().replace("5000000", "6000000"))
    (tmp_path / "text.txt").write_text("text\nmore\n")
    made.write(made.run_of([made.record("eager", Rate(0, 1.0))], Load), tmp_path / "load.jsonl")
    before = set(tmp_path.iterdir())
    done = cli_here("study", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr
    assert set(tmp_path.iterdir()) == before


def test_machines_stand_on_one_page_when_asked_to_and_the_page_says_so(cli_here, tmp_path: Path) -> None:
    here = compare_run(tmp_path / "here.jsonl", record("eager", 1, 8, 5.0))
    another = {**MACHINE, "cpu": "Another CPU"}
    there = compare_run(tmp_path / "there.jsonl", record("eager", 1, 8, 5.0), fingerprint=another)
    done = cli_here("study", here, there, "--force")
    assert done.returncode == 0
    assert "different machines" in done.stdout
    assert "A CPU, 2 CPUs" in done.stdout and "Another CPU, 2 CPUs" in done.stdout


def test_a_stopped_run_and_other_threads_are_told(cli_here, tmp_path: Path) -> None:
    name = corpus_run(tmp_path / "corpus.jsonl", {("eager", 1, "unsorted"): 5.0}, is_complete=False)
    other = compare_run(tmp_path / "grid.jsonl", record("eager", 1, 8, 5.0), threads=1)
    text = cli_here("study", name, other).stdout
    assert f"- {name} is incomplete" in text
    assert "different thread counts (1, 2)" in " ".join(text.split())


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = bench.judge_study([tmp_path / name for name in all_kinds(tmp_path)])
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="cannot be written"):
        bench.write_study(study, tmp_path / "file/page.md", "none")
    monkeypatch.setattr(Path, "replace", lambda *names: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(BenchError, match="No space left"):
        bench.write_study(study, tmp_path / "folder/page.md", "none")
    assert list((tmp_path / "folder").iterdir()) == []


def test_python_needs_a_file() -> None:
    with pytest.raises(UserError, match="no file was given"):
        bench.judge_study([])
