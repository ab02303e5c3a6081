"""Options of `bench tune`: those of every workload, over a space that it finds itself."""

from __future__ import annotations

from dataclasses import Field, dataclass
from typing import Any, ClassVar

from bench import options
from bench.options import CommonOptions, option


@dataclass(frozen=True, kw_only=True)
class TuneOptions(CommonOptions):
    """Options of `bench tune`."""

    command: ClassVar[str] = "tune"
    function: ClassVar[str] = "tune"
    summary: ClassVar[str] = (
        "Search for the fastest way to run one shape, or one traffic, that is still the same model."
    )

    batches: tuple[int, ...] = option(
        "Batch sizes; of several shapes each comes as often as any other.", options.sizes, default=(1,)
    )
    lengths: tuple[int, ...] = option("Sequence lengths in tokens.", options.sizes, default=(128,))
    traffic: str | None = option(
        "In place of batches and lengths: CSV or JSON Lines with batch, length[, count].", options.text, default=None,
        metavar="FILE",
    )  # fmt: skip
    max_loss: float | None = option(
        "Largest RMSE over the output's RMS, e.g. 2%; lets other precisions in.", options.share, default=None,
        show=options.shown_share,
    )  # fmt: skip
    backends: tuple[str, ...] = option(
        "Comma-separated backend[:variant][@environment].", options.names, default=(),
        default_shown="all that are installed",
    )  # fmt: skip
    precisions: tuple[str, ...] = option(
        "Any of fp32, fp16, bf16, int8.", options.precisions, default=(), default_shown="fp32; all with --max-loss"
    )
    threads: int | None = option(
        "Most threads that are tried.", options.whole(1, 4096, 2), default=None,
        default_shown="the CPUs this process may use",
    )  # fmt: skip
    budget: float = option(
        "Time for the whole search, e.g. 10m; what has begun is ended.", options.seconds(example="10m"), default=600.0,
        show=options.shown_seconds,
    )  # fmt: skip
    output: str | None = option(
        "File for the search (JSON).", options.text, default=None, in_command=False,
        default_shown="in a new folder under ARTIFACTS/runs",
    )  # fmt: skip

    @classmethod
    def declared(cls) -> tuple[Field[Any], ...]:
        """As `Options.declared`, without the baseline: a search holds its finalists against each other."""
        return tuple(one for one in super().declared() if one.name != "baseline")
