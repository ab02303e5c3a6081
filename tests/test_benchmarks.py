"""Scripts under benchmarks/: their arithmetic, what they draw, take and say, and one whole run."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.run.file import read_run
from bench.run.record import Record, Run
from bench.spec import Candidate, Shape, parse_candidates
from bench.tune.results import Goal
from bench.tune.space import Trial
from benchmarks import every_gpu_backend, growth, mutations, peers, regret, tuned, where_time_goes
from tests import made

AT = Shape(1, 8)
EAGER, ONNX, AOTI = (made.candidate(name) for name in ("eager", "onnx", "aoti"))


def record(name: str, ms: float, verdict: str = "equivalent", shape: Shape = AT) -> Record:
    """Ten rounds that differ by 0.2 % at most."""
    return made.record(name, shape, ms=[[ms * (1 + 0.001 * (i % 3))] * 3 for i in range(10)], verdict=verdict)


# every_gpu_backend.py


def test_comparisons_are_one_for_each_models_precisions_and_one_for_tf32() -> None:
    wanted = every_gpu_backend.measurements(["bert", "gpt"], ["fp32", "bf16"])
    assert [str(one) for one in wanted] == ["bert fp32,bf16", "bert TF32", "gpt fp32,bf16", "gpt TF32"]
    assert [str(one) for one in every_gpu_backend.measurements(["bert"], ["fp16"])] == ["bert fp16"]
    now = iter([0.0, 0.0, 100.0, 241.0])
    assert list(every_gpu_backend.in_time(wanted, 300.0, lambda: next(now))) == wanted[:2]


def test_a_fused_file_is_exported_behind_the_file_that_it_is_made_from() -> None:
    candidates = parse_candidates(["eager", "onnx", "onnx:fused", "torchscript", "openvino"], ["fp32", "fp16"])
    found = every_gpu_backend.chains(candidates, "cpu")
    assert [chain for chain in found if len(chain) > 1] == [
        [("onnx", precision), ("onnx-fused", precision)] for precision in ("fp32", "fp16")
    ]
    assert sorted(chain[0] for chain in found if len(chain) == 1) == [("torchscript", "fp16"), ("torchscript", "fp32")]


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.filterwarnings("ignore")  # torch.jit warns about itself
def test_it_exports_then_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"device": "cpu", "models": "bert-tiny", "backends": "eager,torchscript,tensorrt", "precisions": "fp32"}
    options |= {"batches": "1", "lengths": "8", "rounds": "2", "max-seconds-per-cell": "0.05", "at-once": "1"}
    options["artifacts"] = str(tmp_path)
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", ["every_gpu_backend", *words])
    every_gpu_backend.main()
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("not here: tensorrt: tensorrt does not run on cpu") for line in lines)
    exported = next(at for at, line in enumerate(lines) if "exported torchscript fp32" in line)
    assert exported < next(at for at, line in enumerate(lines) if line.startswith("measuring; 2 workers"))
    (path,) = (tmp_path / "runs").glob("*.jsonl")
    assert lines[-1] == f"bert-tiny fp32: {path}"
    assert [record.status for record in read_run(path).records] == ["ok", "ok"]


# growth.py


@pytest.mark.parametrize(("last", "said"), [(1, "2, the same whatever the grid"), (3, "2, 2 to 4")])
def test_growth_is_a_line_and_an_export_that_is_made_again_is_seen(
    last: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for shapes in (1, 7, 64):
        _, batches, _, lengths = growth.axes(shapes)
        assert len(batches.split(",")) * len(lengths.split(",")) == shapes
    assert growth.line_through([1, 4, 16], [2.5, 4.0, 20.0])[2] > 0.1
    assert growth.resident_peak_bytes(os.getpid()) > 2**20 > growth.resident_peak_bytes(2**22 + 1) == 0
    rows = [
        growth.Grown(cells, 2 + 0.5 * cells, 2**25, 10**6, 10**4, Counter(checkpoint=1, onnx=onnx, reference=cells))
        for cells, onnx in ((1, 1), (4, 1), (16, 1), (64, last))
    ]
    growth.print_table("eager,onnx", rows)
    out = capsys.readouterr().out
    assert f"exports: {said}" in out
    assert "2.0 s + 0.50 s a cell; the worst grid is 0% off" in out
    assert all(len(line) <= 80 for line in out.splitlines())


# mutations.py

SOURCE = """LIMIT = len("ä" * 4)


def larger(size: int, name: str = "tiny", *, on_cuda: bool = False) -> str:
    if size > LIMIT and not name:
        raise ValueError("too large")
    if on_cuda:
        size += 1
    size -= 2
    return f"{name} is" + "small"
"""


def test_a_draw_is_seeded_and_a_mutant_replaces_its_own_text_alone(tmp_path: Path) -> None:
    for file in ("bench/ä_sizes.py", "backends/tensorrt.py"):  # what needs a GPU is left out
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text(SOURCE)
    whole = mutations.draw(tmp_path, 0, 100)
    assert whole[:3] == mutations.draw(tmp_path, 0, 3)
    assert len({mutant.lines for mutant in whole}) == len(whole) == 6
    seen = set()
    for mutant in (mutant for seed in range(40) for mutant in mutations.draw(tmp_path, seed, 100)):
        source = (tmp_path / mutant.file).read_bytes()
        assert source[mutant.start : mutant.end].decode() == mutant.before
        assert mutant.before in SOURCE.splitlines()[mutant.line - 1]
        if SOURCE.count(mutant.before) == 1:
            assert mutant.text(source).decode() == SOURCE.replace(mutant.before, mutant.after)
        seen.add((mutant.operator, mutant.after))
    assert seen >= {
        ("arithmetic", "('ä' / 4)"), ("text emptied", '""'), ("constant off by one", "5"), ("default: boolean", "True"),
        ("condition negated", "not (size > LIMIT and (not name))"), ("and / or", "(size > LIMIT or not name)"),
        ("comparison", "(size >= LIMIT)"), ("not removed", "(name)"), ("statement deleted", "pass"), ("returns None", "None"),
    }  # fmt: skip


# peers.py


@pytest.mark.parametrize(
    ("ms", "length", "said"),
    [(7.0, 8, "0.70 0.70–0.70  goal 0.75 reached"), (9.0, 8, "goal 0.75 missed"), (9.0, 512, "goal 1 reached")],
)
def test_below_one_ours_is_faster_than_the_best_peer(ms: float, length: int, said: str) -> None:
    measured = {"openvino": 10, "eager": 30, "aoti": ms}
    (line,) = peers.lines(made.run_of([record(name, time, shape=Shape(1, length)) for name, time in measured.items()]))
    assert said in line
    assert line.split()[2:6:2] == ["aoti", "openvino"]


def test_what_is_another_model_is_not_ours_to_win_with() -> None:
    (line,) = peers.lines(made.run_of([record("onnx", 10), record("aoti", 2, "broken"), record("torchscript", 9)]))
    assert line.split()[2] == "torchscript"
    assert list(peers.lines(made.run_of([record("onnx", 10)]))) == ["bert      1×8  no cell of ours was measured"]


def test_every_name_in_a_script_is_a_variant_of_this_version() -> None:
    labels = every_gpu_backend.BACKENDS
    assert tuple(one.label for one in parse_candidates(labels, ["fp32"])) == labels
    kept, refused = every_gpu_backend.runnable(["eager", "onnx:cuda-graphs"], ["fp32", "bf16"], "cpu")
    assert (kept, "does not run on cpu" in refused["onnx:cuda-graphs"]) == (["eager"], True)
    for device in ("cpu", "cuda"):
        names = [*peers.PEERS, *peers.OURS[device]]
        assert peers.known(names) == (names, [])
    assert peers.known(["eager", "nonsense", "eager:nonsense"]) == (["eager"], ["nonsense", "eager:nonsense"])
    assert Shape(1, 8) in peers.GOAL_SHAPES
    found = set(where_time_goes.variants())
    assert found >= {"eager", "onnx:cuda-graphs", "compile:reduce-overhead", "aoti", "torchscript"}
    assert not found & {"openvino", "null"}


# regret.py


def replay_of(chosen: str, number: int = 0, **rounds: list[int]) -> regret.Replay:
    draw = regret.Draw(number, "uniform", "fixed", (Shape(2, 10), Shape(1, 30)))
    return regret.Replay(draw, {regret.CHOSEN: chosen}, dict.fromkeys(rounds, 100.0), rounds, 0.5)


def test_regret_is_over_the_best_of_the_median_rounds() -> None:
    replay = replay_of("eager", eager=[110, 105, 500], onnx=[100, 101, 99])
    assert (replay.best, replay.regret("onnx"), replay.of_choice) == ("onnx", 0.0, pytest.approx(0.10))
    assert replay.range("eager") == (pytest.approx(105 / 101 - 1), pytest.approx(500 / 99 - 1))
    assert replay.noise == pytest.approx((500 / 99) / (105 / 101) - 1)
    assert replay_of("a", a=[10], b=[10]).noise == 0.0
    split = regret.with_split(replay_of("eager", eager=[90, 105, 106], onnx=[100, 101, 99]))
    assert split is not None
    assert (split.picks, split.regret("eager")) == ({regret.FIRST_ROUND: "eager"}, pytest.approx(0.055))
    assert regret.with_split(replay_of("eager", eager=[1], onnx=[2])) is None


def test_draws_are_seeded_within_the_grid_and_of_every_family() -> None:
    draws = regret.make_draws(100, 10, Shape(8, 256), 0)
    assert draws[:20] == regret.make_draws(20, 10, Shape(8, 256), 0) != regret.make_draws(20, 10, Shape(8, 256), 1)
    assert len({(draw.lengths, draw.batches) for draw in draws}) == 12
    shapes = [shape for draw in draws for shape in draw.shapes]
    assert {shape.batch for shape in shapes} == set(range(1, 9))
    assert all(1 <= shape.length <= 256 for shape in shapes)
    assert len(set(shapes)) > 300


def test_one_shape_picks_the_fastest_that_is_the_same_model() -> None:
    run = made.run_of([record("eager", 3), record("onnx", 2), record("compile", 1, "broken")])
    assert regret.fastest_at(run, AT) == "onnx"
    with pytest.raises(BenchError, match="no comparable record at 2×128"):
        regret.fastest_at(run, Shape(2, 128))
    cells = [Shape(1, 16), Shape(1, 128), Shape(8, 128)]
    assert regret.nearest_cell([Shape(1, 100), Shape(3, 120)], cells) == Shape(1, 128)


def test_the_report_says_the_share_the_rules_the_noise_and_the_worst() -> None:
    good = [replay_of("onnx", number, eager=[200, 200], onnx=[100, 100]) for number in range(18)]
    bad = replay_of("eager", 19, eager=[150, 150], onnx=[100, 100])
    lines = list(regret.report([*good, replay_of("eager", 18, eager=[101, 104], onnx=[100, 100]), bad]))
    assert lines[0] == (
        "20 draws of 2 requests, 2 rounds, 50% of the requests off the grid: 95% within 3% of the best; "
        "goal 95% reached"
    )
    rules = {line[:28].strip(): line[28:].split() for line in lines if "%" in line[28:40]}
    assert rules["bench choose"] == ["95%", "0.0%", "2.6%", "50.0%"]
    assert rules["always eager"] == ["5%", "100.0%", "92.6%", "100.0%"]
    assert rules["always onnx"] == ["100%", "0.0%", "0.0%", "0.0%"]
    assert "in every round within 3%: 18; in every round beyond: 1; one way and the other: 1; 0 ch" in "\n".join(lines)
    worst = next(line for line in lines if line.startswith("draw 19"))
    assert "25 tokens a request" in worst
    assert "took eager, best onnx; regret 50.0% (rounds 50.0% to 50.0%), foretold +0.0%" in worst
    assert all(len(line) < 200 for line in lines)
    assert "goal 95% missed" in next(regret.report([bad]))


# tuned.py

GOAL = Goal(((Shape(1, 8), 1.0),), "1×8 alone", None)


def tried(threads: int, verdict: str = "equivalent", **ms: float) -> tuple[int, Run]:
    return threads, made.run_of([record(name, value, verdict) for name, value in ms.items()])


def test_who_is_over_three_percent_faster_misses_the_goal() -> None:
    winner = Trial(ONNX, 2)
    held = tuned.held_against(winner, [tried(2, onnx=10, eager=9.8, aoti=9.0)], GOAL)
    assert [trial.candidate for trial, entry in held.items() if entry.is_faster] == [AOTI]
    said = list(tuned.lines(winner, held))
    assert said[0].endswith("1.11 (1.11–1.11) times the winner's speed, FASTER")
    assert said[-1] == "goal, nothing more than 3% faster among 3 points: missed by aoti fp32, 2 threads"
    reached = tuned.held_against(Trial(AOTI, 2), [tried(2, onnx=10, aoti=9.0)], GOAL)
    assert list(tuned.lines(Trial(AOTI, 2), reached))[-1].endswith("among 2 points: reached")


def test_other_threads_are_held_against_the_winners_median_and_other_models_break_nothing() -> None:
    runs = [tried(2, onnx=10, eager=12), tried(1, onnx=9, eager=20), tried(2, "broken", aoti=1)]
    held = tuned.held_against(Trial(ONNX, 2), runs, GOAL)
    assert [trial for trial, entry in held.items() if entry.is_faster] == [Trial(ONNX, 1)]
    assert "parity is broken" in held[Trial(AOTI, 2)].reason


def test_the_winner_stands_in_each_group_of_its_precision() -> None:
    others = [Candidate(f"b{number}", "default", "fp32") for number in range(7)]
    int8 = Candidate("onnx", "default", "int8")
    found = list(tuned.groups([ONNX, *others, int8], ONNX))
    assert found == [[ONNX, *others[:5]], [ONNX, *others[5:]], [int8]]
    assert list(tuned.groups([ONNX], ONNX)) == [[ONNX]]


# where_time_goes.py


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize128x128x8", "products"),
        ("void cutlass::Kernel2<cutlass_80_simt_sgemm_256x128_8x4_tn_align1>(Params)", "products"),
        ("fmha_cutlassF_f32_aligned_64x64_rf_sm80(PyTorchMemEffAttention::AttentionKernel)", "attention"),
        ("void onnxruntime::cuda::cuApplyLayerNorm<float, float, float>", "layer norm"),
        ("triton_poi_fused_gelu_7", "Triton's fusions"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::GeluCUDAKernelImpl>", "elementwise and others"),
    ],
)
def test_a_gpus_kernels_are_told_apart_by_name(name: str, kind: str) -> None:
    assert where_time_goes.by_kind([(name, 3), (name, 4)]) == ({kind: 7}, {kind: 2})
