"""What ONNX Runtime's own profile of a session tells: which operators ran, and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

#: Operators that ONNX Runtime puts between nodes of different devices.
COPIES = ("MemcpyFromHost", "MemcpyToHost")
#: Operators that are an attention layer by themselves (ONNX and com.microsoft).
FUSED_ATTENTION = (
    "Attention", "MultiHeadAttention", "GroupQueryAttention", "PackedAttention", "PackedMultiHeadAttention",
    "QAttention",
)  # fmt: skip
CPU_PROVIDER = "CPUExecutionProvider"


def last_run(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Operator and provider of each node that the last run of a session's profile executed.

    These are the nodes after every fusion, unlike those of the session's assignment to providers.
    """
    started = max((event["ts"] for event in events if event.get("name") == "model_run"), default=0)
    kernels = (event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"))
    return [event["args"] for event in kernels if event["ts"] >= started]


def _on_cpu(ran: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Number of nodes on the CPU provider by operator, the most frequent first."""
    return dict(Counter(args["op_name"] for args in ran if args["provider"] == CPU_PROVIDER).most_common())


def executed_nodes(events: Sequence[dict[str, Any]], device: str) -> dict[str, Any]:
    """What the last run of a session's profile executed: nodes by provider, copies between devices, attention."""
    ran = last_run(events)
    per_provider = Counter(args["provider"] for args in ran)
    operators = Counter(args["op_name"] for args in ran)
    attention = {name: operators[name] for name in FUSED_ATTENTION if operators[name]}
    if not attention and operators["Softmax"]:  # each unfused attention has one softmax
        attention = {"unfused": operators["Softmax"]}
    return {
        "nodes_per_provider": dict(per_provider),
        "nodes_on_cpu": per_provider[CPU_PROVIDER] if device == "cuda" else None,
        **({"operators_on_cpu": _on_cpu(ran)} if device == "cuda" else {}),
        "copies_inserted": sum(operators[name] for name in COPIES),
        "attention_kernels": attention,
    }
