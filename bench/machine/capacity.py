"""Will a cell fit into the host's memory? Continued from the peaks of smaller cells; pure functions."""

from __future__ import annotations

from collections.abc import Mapping

from bench.spec import Shape

#: How far what is foreseen must exceed the room before a cell is not tried: the line may start at a cell that had not
#: met a fixed cost yet, and a cell that is tried in vain costs minutes, one that is left out in error costs its figure.
MARGIN = 1.2
#: Tokens of a cell over those of the largest measured one, beyond which nothing is foreseen: the first buffers of a
#: runtime make a line through small cells too steep. ONNX at 8×128 from 1×16 and 1×128: 1.57 GiB, and it took 0.55.
FARTHEST = 32


def foreseen_bytes(peaks: Mapping[Shape, int], shape: Shape) -> int | None:
    """Bytes that a worker will hold at `shape`, from its `peaks` at other shapes; None if they do not tell.

    A straight line over tokens, through the peak with the most tokens and the next with half as many or fewer, among
    shapes no longer than this one: activations grow with tokens, and attention's with the square of the length.
    """
    points = {s.batch * s.length: peak for s, peak in peaks.items() if s.length <= shape.length}
    tokens = shape.batch * shape.length
    most = max(points, default=0)
    fewer = max((count for count in points if 2 * count <= most), default=0)
    if not fewer or not most < tokens <= FARTHEST * most or points[most] <= points[fewer]:
        return None
    return round(points[most] + (points[most] - points[fewer]) / (most - fewer) * (tokens - most))


def refusal(peaks: Mapping[Shape, int], shape: Shape, room_bytes: int) -> str:
    """Why a cell is not tried where a worker may hold `room_bytes` in all; "" where it is."""
    foreseen = foreseen_bytes(peaks, shape)
    if foreseen is None or foreseen <= MARGIN * room_bytes:
        return ""
    largest = max((s for s in peaks if s.length <= shape.length), key=lambda s: s.batch * s.length)
    return (
        f"not tried, as it would take about {foreseen / 2**30:.0f} GiB (continued from smaller cells up to {largest}), "
        f"and {room_bytes / 2**30:.0f} GiB are to be had"
    )
