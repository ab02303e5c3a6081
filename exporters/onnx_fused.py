"""ONNX with attention, layer norm and GELU fused to ONNX Runtime's own operators, each result checked before its use.

onnxscript's fusions for ONNX Runtime are tried, and where they fuse no attention or fail ONNX Runtime's transformers
optimizer. What is kept is the graph with the most fused attention that is valid, loads, and computes what the graph as
exported computes.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from exporters import onnx_int8
from exporters.checkpoint import input_names, metadata_of, open_checkpoint
from exporters.folders import vocab_size
from exporters.onnx import LIBRARIES
from exporters.onnx import VERSION as ONNX_VERSION
from exporters.sources import MODULE

VERSION = 1
#: Domain of the operators that ONNX Runtime has beside ONNX's own.
DOMAIN = "com.microsoft"
#: Fused operators that are an attention layer.
ATTENTION = ("Attention", "MultiHeadAttention", "GroupQueryAttention", "PackedAttention", "PackedMultiHeadAttention")
#: Largest RMSE of a fused graph against the graph as exported, as a share of the latter's RMS: some hundred times what
#: another order of sums gives, and far below what a lost mask or bias does. Parity judges every cell on its own.
MOST_RMS_SHARE = {"fp32": 1e-4, "fp16": 2e-2}
#: Batch and length of the inputs that both graphs are compared on.
CHECK_SHAPES = ((1, 1), (2, 16), (3, 37))

__all__ = ["LIBRARIES", "VERSION", "FusionError", "export", "recipe_fields"]


class FusionError(RuntimeError):
    """No rewriter wrote a graph that may be used; the message says why of each."""


def recipe_fields(*, precision: str, device: str) -> dict[str, Any]:
    """The file is the same for every device; ONNX Runtime rewrites and checks it."""
    fields = {"precision": precision, "onnx_exporter": ONNX_VERSION, "onnxruntime": onnx_int8.runtime_version()}
    return {**fields, **(onnx_int8.recipe_fields() if precision == "int8" else {})}


def export(checkpoint: Path, folder: Path, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Fuse the `onnx` artifact of the same checkpoint; writes model.onnx and model.onnx.data.

    The metadata counts each fused operator and names the rewriter. int8 is the fused fp32 file, quantised. Raises
    FusionError where no rewriter's graph passes the checks.
    """
    precision = recipe["precision"]
    if precision == "int8":
        return onnx_int8.export("onnx-fused", checkpoint, folder)
    source = onnx_int8.fp32_artifact("onnx", checkpoint, precision)
    batches = check_batches(checkpoint, source.metadata["inputs"])
    accepted: list[tuple[int, str, Path, Counter[str]]] = []
    refused = []
    for name, rewrite in REWRITERS.items():
        place = folder / name
        place.mkdir()
        try:
            with _quiet():
                rewrite(source.path / "model.onnx", place / "model.onnx")
            counts = fused_operators(place / "model.onnx")
            if not counts:
                raise FusionError("it fuses nothing")
            check(source.path / "model.onnx", place / "model.onnx", batches, MOST_RMS_SHARE[precision])
        except Exception as error:  # rewriters fail in every way there is, and a checker in several
            refused.append(f"{name}: {' '.join(str(error).split())[:160] or type(error).__name__}")
            shutil.rmtree(place)
            continue
        accepted.append((sum(counts[operator] for operator in ATTENTION), name, place, counts))
        if accepted[-1][0]:
            break
    if not accepted:
        raise FusionError(f"no rewriter wrote a graph that may be used ({'; '.join(refused)}); use onnx")
    attention, name, place, counts = max(accepted, key=lambda entry: entry[0])  # of several, the first
    for file in place.iterdir():
        file.rename(folder / file.name)
    for _, _, other, _ in accepted:
        shutil.rmtree(other)
    return {
        **source.metadata,
        **onnx_int8.made_from(source),
        "nodes": _nodes(folder / "model.onnx"),
        "rewriter": name,
        "refused_rewriters": refused,
        "fused_operators": dict(sorted(counts.items())),
        "fused_attention": attention,
    }


def _by_onnxscript(source: Path, target: Path) -> None:
    """onnxscript's fusions for ONNX Runtime."""
    import onnx_ir
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    model, _ = optimize_for_ort(onnx_ir.load(source))
    _split_products(model)
    for node in model.graph:  # shapes that were noted before are some of them no longer right, and none is needed
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    onnx_ir.save(model, target, external_data=f"{target.name}.data")


def _split_products(model: Any) -> None:
    """Write every Gemm as MatMul and Add.

    A fused attention hands on [batch, length, width] where the attention that it replaced was followed by a Reshape to
    two dimensions, which the fusion takes along; a Gemm behind it takes two alone, so the graph would be invalid.
    ONNX Runtime makes a Gemm of them again where it may.
    """
    import onnx_ir

    usual = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    for node in list(model.graph):
        if node.op_type != "Gemm" or any(
            node.attributes[name].value != value for name, value in usual.items() if name in node.attributes
        ):
            continue
        nodes = [onnx_ir.node("MatMul", node.inputs[:2], name=f"{node.name}_product")]
        if len(node.inputs) == 3 and node.inputs[2] is not None:
            nodes.append(onnx_ir.node("Add", [nodes[0].outputs[0], node.inputs[2]], name=f"{node.name}_sum"))
        for made in nodes:
            made.outputs[0].dtype = node.outputs[0].dtype
        onnx_ir.convenience.replace_nodes_and_values(model.graph, node, [node], nodes, node.outputs, nodes[-1].outputs)


def _by_onnx_runtime(source: Path, target: Path) -> None:
    """ONNX Runtime's transformers optimizer, which finds the number of heads in the graph."""
    from onnxruntime.transformers.optimizer import optimize_model

    model = optimize_model(str(source), model_type="bert", num_heads=0, hidden_size=0, opt_level=0)
    model.save_model_to_file(str(target), use_external_data_format=True)


#: Rewriters in the order in which they are tried, and of equally good graphs taken.
REWRITERS: dict[str, Callable[[Path, Path], None]] = {
    "onnxscript": _by_onnxscript,
    "onnxruntime": _by_onnx_runtime,
}


def fused_operators(model: Path) -> Counter[str]:
    """How many nodes of a model's graph are of each operator that ONNX does not have, but ONNX Runtime."""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    return Counter(node.op_type for node in graph.node if node.domain == DOMAIN)


def _nodes(model: Path) -> int:
    import onnx

    return len(onnx.load(model, load_external_data=False).graph.node)


def check_batches(checkpoint: Path, inputs: list[str]) -> list[dict[str, Any]]:
    """Inputs to compare graphs on: seeded ids of several shapes under masks full, padded on each side and holed.

    Of a module of the user's, whose inputs mean what only it knows, its own example.
    """
    import numpy as np

    metadata = metadata_of(checkpoint)
    if metadata["weights"] == MODULE:
        module = open_checkpoint(checkpoint, "cpu", "fp32")
        example = module.example_inputs("cpu")
        return [{name: tensor.numpy() for name, tensor in zip(input_names(module), example, strict=True)}]
    config = json.loads((checkpoint / "config.json").read_text())
    vocabulary, positions = vocab_size(metadata["model"], config), metadata["positions"]
    rng = np.random.default_rng(0)
    found = []
    for batch, most in CHECK_SHAPES:
        length = min(most, positions or most)
        ids = rng.integers(0, vocabulary, (batch, length))
        found += [dict(zip(inputs, (ids, mask), strict=True)) for mask in _masks(batch, length)]
    return found


def _masks(batch: int, length: int) -> list[Any]:
    """Masks [batch, length] that differ: full, and where there is room padded right, padded left and holed in a row."""
    import numpy as np

    masks = [np.ones((batch, length), np.int64)]
    if length > 2:
        right, left, holed = (np.ones((batch, length), np.int64) for _ in range(3))
        right[0, length // 2 + 1 :] = 0
        left[-1, : length // 2] = 0
        holed[0, 1 : length - 1 : 3] = 0
        masks += [right, left, holed]
    return masks


def check(plain: Path, fused: Path, batches: list[dict[str, Any]], most_rms_share: float) -> None:
    """Raise where `fused` is no valid model, does not load, or computes something else than `plain` does."""
    import numpy as np
    import onnx

    onnx.checker.check_model(str(fused), full_check=True)
    before, after = _session(plain), _session(fused)
    for batch in batches:
        for expected, found in zip(before.run(None, batch), after.run(None, batch), strict=True):
            if expected.shape != found.shape:
                raise FusionError(f"it returns {list(found.shape)} where {list(expected.shape)} is right")
            kept = _kept(batch, expected)
            wanted, got = expected[kept].astype(np.float64), found[kept].astype(np.float64)
            share = np.sqrt(np.mean((got - wanted) ** 2)) / max(np.sqrt(np.mean(wanted**2)), np.finfo(np.float64).tiny)
            if not share <= most_rms_share:  # NaN is not
                shape = "×".join(map(str, next(iter(batch.values())).shape))
                raise FusionError(f"it computes something else: off by {share:.1e} of the RMS at {shape}")


def _kept(batch: Mapping[str, Any], output: Any) -> Any:
    """Which of an output's rows and positions are not padding; all where there is no mask of its shape."""
    import numpy as np

    mask = batch.get("attention_mask")
    if mask is None or output.shape[: mask.ndim] != mask.shape:
        return np.ones(output.shape[:1], bool)
    return mask.astype(bool)


def _session(path: Path) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep what the rewriters print, warn and log off the terminal; what matters they raise or is checked."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
