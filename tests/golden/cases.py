"""What the golden files hold: the command lines of reports. Those whose exit code alone is kept are its file's keys.

Every command line runs in a folder where `runs` is tests/golden/runs, `reference` is artifacts/reference, and
`artifacts/runs` holds copies of some runs, the newest first as in `SHOWN`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

#: How each format is asked for, and the suffix of its golden files.
ASKED = {
    "table": ("", "txt"),
    "markdown": (" --markdown", "md"),
    "csv": (" --csv", "csv"),
    "json": (" --json", "json"),
}
#: Formats of each kind of file.
FORMATS: Mapping[str, Sequence[str]] = {
    "compare": ("table", "markdown", "csv", "json"),
    "corpus": ("table", "json", "csv", "markdown"),
    "generate": ("table", "markdown", "csv", "json"),
    "load": ("table", "json", "csv", "markdown"),
    "memory": ("table", "json", "csv", "markdown"),
    "parity": ("table", "csv", "markdown"),
    "tune": ("table", "json"),
}
#: Runs that are reported in every format of their kind. The first word of a name is the kind.
RUNS = (
    "compare",
    "compare-auto",
    "compare-broken",
    "compare-budget",
    "compare-faults",
    "compare-interrupted",
    "corpus",
    "generate",
    "generate-beam",
    "load",
    "load-rate",
    "memory",
    "memory-decoder",
    "memory-failed",
    "parity",
    "parity-broken",
    "parity-lm",
    "tune",
)
#: Committed runs of artifacts/reference, with their kind and the formats that are small enough to be kept.
REFERENCES: Mapping[str, tuple[str, Sequence[str]]] = {
    "epyc2-20261123-seed-bert-1": ("compare", ("table", "markdown", "csv", "json")),
    "epyc2-20261123-seed-bert-budget": ("compare", ("table", "markdown", "csv")),
    "epyc2-20261123-seed-gpt2-medium": ("compare", ("table", "markdown", "csv")),
    "epyc2-20261123-bert-intervals": ("compare", ("table", "markdown", "csv")),
    "epyc2-20261123-study-budget": ("compare", ("table", "markdown")),
    "epyc2-20261124-minilm-grid-1": ("compare", ("table", "markdown")),
    "epyc2-20261128-peers-bert-8": ("compare", ("table", "markdown", "csv")),
    "h100-20261128-bert": ("compare", ("table", "markdown", "csv")),
    "epyc2-20261123-bert-corpus": ("corpus", ("table", "csv")),
    "epyc2-20261123-gpt2-generate-512": ("generate", ("table", "markdown", "csv", "json")),
    "epyc2-20261123-gpt2-memory": ("memory", ("table", "json")),
    "epyc2-20261123-gpt2-medium-memory": ("memory", ("table",)),
}
#: What `artifacts/runs` holds, the newest first.
SHOWN = ("compare", "load", "corpus", "generate", "memory", "compare-interrupted")

_REFERENCE = "reference/epyc2-"
_STUDY = " ".join(
    f"{_REFERENCE}20261123-{name}.jsonl"
    for name in (
        "seed-bert-1",
        "seed-bert-16",
        "seed-gpt",
        "bert-corpus",
        "gpt2-generate-512",
        "gpt2-memory",
        "gpt2-medium-memory",
    )
)
#: Reports that are not `bench report FILE` in one of its formats, by the path of their golden file.
OTHER_REPORTS: Mapping[str, str] = {
    "first/steps.txt": "",
    "list/presets.txt": "list presets",
    "show/newest.txt": "show",
    "show/load.txt": "show 2",
    "show/interrupted.txt": "show 6",
    "show/list.txt": "show --list",
    "compare/compare.columns.txt": "report runs/compare.jsonl --columns us-per-step,ms-per-sample",
    "compare/compare.columns.md": "report runs/compare.jsonl --markdown --columns us-per-step,ms-per-sample",
    "compare/compare-broken.page.txt": "report runs/compare-broken.jsonl --output page.html",
    "compare/two.page.txt": "report runs/compare-interrupted.jsonl runs/compare-faults.jsonl --output page.html",
    "compare/h100-20261128-bert.page.txt": "report reference/h100-20261128-bert.jsonl --output page.html",
    "corpus/corpus.page.txt": "report runs/corpus.jsonl --output page.html",
    "generate/generate.page.txt": "report runs/generate.jsonl --output page.html",
    "load/load.page.txt": "report runs/load.jsonl --output page.html",
    "memory/memory.page.txt": "report runs/memory.jsonl --output page.html",
    "diff/same.txt": "diff runs/compare.jsonl runs/compare-interrupted.jsonl --force",
    "diff/minilm.txt": f"diff {_REFERENCE}20261124-minilm-grid-1.jsonl {_REFERENCE}20261124-minilm-grid-2.jsonl",
    "diff/minilm-loose.txt": f"diff {_REFERENCE}20261124-minilm-grid-1.jsonl {_REFERENCE}20261124-minilm-grid-2.jsonl --threshold 50%",
    "diff/peers.txt": f"diff {_REFERENCE}20261124-peers-bert-8.jsonl {_REFERENCE}20261128-peers-bert-8.jsonl --force",
    "diff/peers.json": f"diff {_REFERENCE}20261124-peers-bert-8.jsonl {_REFERENCE}20261128-peers-bert-8.jsonl --force --json",
    "diff/history.txt": f"diff runs/compare.jsonl runs/compare-interrupted.jsonl {_REFERENCE}20261128-peers-bert-8.jsonl --force",
    "choose/minilm.txt": f"choose {_REFERENCE}20261124-minilm-grid-1.jsonl",
    "choose/minilm.json": f"choose {_REFERENCE}20261124-minilm-grid-1.jsonl --json",
    "choose/minilm-map.txt": f"choose {_REFERENCE}20261124-minilm-grid-1.jsonl --map",
    "choose/traffic.txt": f"choose {_REFERENCE}20261124-minilm-grid-1.jsonl --traffic runs/traffic.csv --slo p95=200ms",
    "choose/traffic.json": f"choose {_REFERENCE}20261124-minilm-grid-1.jsonl --traffic runs/traffic.csv --slo p95=200ms --json",
    "choose/traffic-kept.txt": f"choose {_REFERENCE}20261124-minilm-grid-1.jsonl --traffic runs/traffic.csv --slo p50=1s",
    "choose/nothing.txt": f"choose {_REFERENCE}20261124-minilm-grid-1.jsonl --slo p95=1us",
    "choose/nothing.json": f"choose {_REFERENCE}20261124-minilm-grid-1.jsonl --slo p95=1us --json",
    "choose/memory.txt": f"choose {_REFERENCE}20261128-peers-bert-8.jsonl --max-memory 1GB",
    "choose/restarts.txt": f"choose {_REFERENCE}20261128-peers-bert-8.jsonl --requests-per-restart 100",
    "choose/throughput.txt": "choose reference/h100-20261128-bert.jsonl --objective throughput --min-parity lossy",
    "choose/cost.txt": "choose reference/h100-20261128-bert.jsonl --objective cost --price 3.5",
    "choose/devices.txt": f"choose {_REFERENCE}20261128-peers-bert-1.jsonl reference/h100-20261128-bert.jsonl --device-map --price 0.4,3.5",
    "choose/devices.json": f"choose {_REFERENCE}20261128-peers-bert-1.jsonl reference/h100-20261128-bert.jsonl --device-map --price 0.4,3.5 --json",
    "choose/broken.txt": "choose runs/compare-broken.jsonl",
    "choose/faults.txt": "choose runs/compare-faults.jsonl",
    "study/study.txt": f"study {_STUDY}",
    "verify/altered.txt": "verify runs/bundle",
    "verify/altered.json": "verify runs/bundle --json",
}

#: Files in the folder of every command line. "torn" is cut within a line, "altered" has a sample that is no number.
MADE: Mapping[str, str] = {
    "text.txt": "A sentence.\nAnother one.\n",
    "torn.jsonl": '{"kind":"run","schema":1,"grid"\n{"kind":"record"}\n',
    "altered.jsonl": '{"kind":"run","schema":1,"grid":{"model":"bert"}}\n',
    "later.jsonl": '{"kind":"run","schema":99}\n',
}


def reports() -> Iterator[tuple[str, str]]:
    """Path of the golden file below reports/, and the command line that prints it."""
    for name in RUNS:
        yield from _in_formats(f"runs/{name}.jsonl", name.split("-")[0], name, None)
    for name, (kind, formats) in REFERENCES.items():
        yield from _in_formats(f"reference/{name}.jsonl", kind, name, formats)
    yield from OTHER_REPORTS.items()


def _in_formats(file: str, kind: str, name: str, formats: Sequence[str] | None) -> Iterator[tuple[str, str]]:
    for shown in formats or FORMATS[kind]:
        asked, suffix = ASKED[shown]
        yield f"{kind}/{name}.{suffix}", f"report {file}{asked}"
