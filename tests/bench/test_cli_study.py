"""`bench study` from files to page: what is read of each kind of run, what stands on the page, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import bench
from bench.errors import BenchError, UserError
from bench.machine.roofline import Peaks
from bench.report import study as page
from bench.report.page import render
from bench.run.record import Run
from bench.spec import Shape
from tests import made
from tests.bench.study_cases import FORMATS, generation, memory, padded, record, run_of, sentences

MACHINE = {"cpu": "A CPU", "cpus": 2, "gpus": [], "versions": {"torch": "2.13.0", "rich": "15.0.0"}}


def written(path: Path, run: Run, **fingerprint: Any) -> str:
    run.started, run.fingerprint = f"2026-01-01 {path.stem}", MACHINE | fingerprint
    return made.write(run, path).name


def grid_in(path: Path, *shapes: tuple[int, int], backends: tuple[str, ...] = ("eager",), **values: Any) -> str:
    times = {(name, batch, length): batch * length / 8 for name in backends for batch, length in shapes or [(1, 8)]}
    held = {"loaded": {"parameters_bytes": 437_937_152, "process_bytes": 2**30}, "peak": {}}
    return written(path, padded(times, memory=held, **values))


def all_kinds(folder: Path) -> list[str]:
    records = [
        one
        for order in ("unsorted", "sorted")
        for one in sentences({(name, b): 20 / b**0.5 for name in FORMATS for b in (1, 8, 64)}, order).records
    ]
    of_sentences = sentences({(name, b): 1 for name in FORMATS for b in (1, 8, 64)})
    of_sentences.records = records
    noted = {"keys_and_values": {"layers": 12, "heads": 12, "head_width": 64}}
    return [
        grid_in(folder / "grid.jsonl", *((b, n) for b in (1, 16) for n in (8, 64)), backends=FORMATS),
        written(folder / "corpus.jsonl", of_sentences),
        written(folder / "generation.jsonl", generation("gpt2", 10, 5.4, device="cpu")),
        written(folder / "memory.jsonl", memory("cpu", "gpt", 466_139_136, notes=noted)),
    ]


# Reading.


def test_every_kind_of_file_is_read(tmp_path: Path) -> None:
    study = bench.judge_study([tmp_path / name for name in all_kinds(tmp_path)])
    assert [run.options.command for run in study.runs] == ["compare", "corpus", "generate", "memory"]
    found = {claim.title: finding for claim, finding in study.findings}
    assert found["BERT has 110 M parameters"].evidence[0].startswith("parameters and buffers are 437,937,152 bytes")
    assert found["GPT has 124 M parameters"].outcome == "refuted"
    assert found["GPT: 37,748,736 bytes of keys and values"].outcome == "confirmed"
    assert (
        "batch 64, ms a sample: eager 2.5, onnx 2.5, torchscript 2.5"
        in found["CPU: formats within 10 % at batch 64"].evidence
    )
    assert found["CPU: latency not linear in length, batch 1"].evidence[1].startswith("eager: time ~ length^1.00")
    assert not any(finding.outcome == "confirmed" for claim, finding in study.findings if claim.device == "cuda")


def test_a_cell_that_is_not_the_model_has_a_fault_and_no_claim_sees_it(tmp_path: Path) -> None:
    losses: dict[str, dict[str, Any]] = {
        "eager": {"verdict": "broken"},
        "torchscript": {"verdict": ""},
        "compile": {"operations": {"flops": 10**18, "weight_bytes": 1}},
        "null": {"verdict": ""},
        "onnx": {"conditions": {"other_cpu_seconds": 1.9}},
    }
    run = run_of([record(name, Shape(1, 8), 5.0, **loss) for name, loss in losses.items()])
    run.notes["peaks"] = Peaks("cpu", 2, {"fp32": 1e11}, ((10**8, 1e10),), "2026-01-01").to_json()
    study = bench.judge_study([tmp_path / written(tmp_path / "run.jsonl", run)])
    assert {cell.backend: cell.fault for cell in study.cells} == {
        "eager": "parity broken", "torchscript": "parity unjudged", "compile": "implausible: below the roofline",
        "null": "computes nothing", "onnx": "",
    }  # fmt: skip
    text = page.text(study)
    assert "- cpu, bert, eager fp32: parity broken (1 cell)" in text
    assert "    1   !5" in text
    host = bench.judge_study([tmp_path / grid_in(tmp_path / "host.jsonl", boundary="host")])
    assert "its time holds the copies of --boundary host (1 cell)" in page.text(host)


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
    command = "bench corpus --model bert --backends eager,torchscript,onnx --device cpu --threads 2"
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
    name = grid_in(tmp_path / "run.jsonl", (1, 8), (8, 8), model="<i>bert")
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
    study = bench.judge_study([tmp_path / grid_in(tmp_path / "run.jsonl", (1, 8), (1, 64), (8, 8), (8, 64))])
    files = bench.write_study(study, tmp_path / "svg/page.md")
    assert [path.name for path in files] == [*(f"page-{number}.svg" for number in (1, 2, 3, 4)), "page.md"]
    text = files[-1].read_text()
    for path in files[:-1]:
        assert path.read_bytes().startswith(b"<svg")
        assert f"]({path.name})" in text
    single = bench.judge_study([tmp_path / grid_in(tmp_path / "one.jsonl")])
    assert [path.name for path in bench.write_study(single, tmp_path / "one.md", "png")] == ["one.md"]
    few = bench.judge_study([tmp_path / grid_in(tmp_path / "few.jsonl", (1, 8), (8, 8))])
    image, _ = bench.write_study(few, tmp_path / "few.md", "png")
    assert image.read_bytes()[:4] == b"\x89PNG"


# Refusals.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["text.txt"], "is no run of bench"),
        (["grid.jsonl", "grid.jsonl"], "are the same run"),
        (["altered.jsonl"], "was altered after it was written"),
        (["grid.jsonl", "--output", "page.md", "--plots", "gif"], "unknown plots 'gif'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(cli_here, tmp_path: Path, arguments: list[str], said: str) -> None:
    grid_in(tmp_path / "grid.jsonl")
    (tmp_path / "altered.jsonl").write_text((tmp_path / "grid.jsonl").read_text().replace("1000000", "6000000"))
    (tmp_path / "text.txt").write_text("text\nmore\n")
    before = set(tmp_path.iterdir())
    done = cli_here("study", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr
    assert set(tmp_path.iterdir()) == before


def test_machines_stand_on_one_page_when_asked_to_and_the_page_says_so(cli_here, tmp_path: Path) -> None:
    here = grid_in(tmp_path / "here.jsonl")
    there = written(tmp_path / "there.jsonl", padded({("eager", 1, 8): 5.0}), cpu="Another CPU")
    done = cli_here("study", here, there, "--force")
    assert done.returncode == 0
    assert "different machines" in done.stdout
    assert "A CPU, 2 CPUs" in done.stdout and "Another CPU, 2 CPUs" in done.stdout


def test_a_stopped_run_and_other_threads_are_told(cli_here, tmp_path: Path) -> None:
    stopped, other = sentences({("eager", 1): 5.0}), run_of([record("eager", Shape(1, 8), 5.0)], threads=1)
    stopped.is_complete = False
    text = cli_here("study", written(tmp_path / "a.jsonl", stopped), written(tmp_path / "b.jsonl", other)).stdout
    assert "- a.jsonl is incomplete" in text
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
