"""Which published figures can be right?

    python benchmarks/published_rows.py [FILE]

Holds every row of a file of figures (default: the hand-made ones of an RTX 3090) against the roofline, as live cells
are, and prints its operations, the rate that its median implies, and whether the card can do that.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench.workloads.published import FIGURES, JudgedRow, judge

DATA = FIGURES / "rtx3090.json"


def line(row: JudgedRow) -> str:
    """One line of the table."""
    start = f"{row.model:12} {f'{row.batch}×{row.length}':>7} {row.flops / 1e9:8.1f}"
    least = f"{row.floor.ns / 1e6:8.2f} {row.floor.bound:8}"
    if row.median_ms is None or row.flops_per_second is None or row.peak_share is None:
        return f"{start} {'–':>8} {'–':>8} {'–':>6}  {least} {row.verdict}"
    rates = f"{row.median_ms:8.2f} {row.flops_per_second / 1e12:8.1f} {row.peak_share:6.0%}"
    return f"{start} {rates}  {least} {row.verdict}"


def main() -> None:
    """Print the table and how many rows are impossible."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=DATA)
    path = parser.parse_args().file
    try:
        data = json.loads(path.read_text())
        rows, card = judge(data), data["card"]
        title = f"{card['name']}, {card['precision']}: {card['flops_per_second'] / 1e12:.1f} TFLOP/s"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SystemExit(
            f"{str(path)!r} holds no rows that can be read ({error!r}); write it as {DATA.name} is written"
        ) from None
    print(f"{title}, {card['bytes_per_second'] / 1e9:.0f} GB/s; times are medians in ms")
    print(
        f"{'model':12} {'b×len':>7} {'GFLOP':>8} {'ms':>8} {'TFLOP/s':>8} {'peak':>6}  {'roofline':>8} {'by':8} verdict"
    )
    for row in rows:
        print(line(row))
    impossible = sum(row.verdict == "implausible" for row in rows)
    print(f"{impossible} of {sum(row.median_ms is not None for row in rows)} timed rows lie below their roofline")


if __name__ == "__main__":
    main()
