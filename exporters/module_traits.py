"""What a user's own module takes and gives, found out by calling it at a few shapes. Runs where it is exported."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from exporters.errors import ModelError, cause
from exporters.models import usable_positions
from exporters.sources import INPUTS

if TYPE_CHECKING:
    import numpy as np

    Arrays = dict[str, np.ndarray[Any, Any]]

MASK = INPUTS[1]
EXAMPLE_BATCH, OTHER_BATCH = 2, 3
#: Lengths that a module is tried at, where it has the positions; the first is the one that exports run on.
LENGTHS = (16, 32)
LOGITS = "logits"
#: NumPy kinds of inputs and what they are handed over as.
DTYPES = {"i": "int64", "u": "int64", "f": "float32", "b": "bool"}


def of(name: str, module: Any, make_inputs: Callable[..., Any] | None, seed: int) -> dict[str, Any]:
    """The traits of `module` for its checkpoint's metadata: inputs, outputs, their axes, vocabulary, positions, cache.

    Raises ModelError, in one line, where module or make_inputs do not keep to the rules of docs/adr/0016.
    """
    vocabulary = _number(module, ("vocab_size",))
    positions = _number(module, ("positions", "max_position_embeddings", "n_positions"))
    takes_ids = make_inputs is None
    if takes_ids:
        if vocabulary is None:
            raise ModelError(
                f"module {name!r} has neither vocab_size (its own or its config's) nor make_inputs, so no inputs can "
                "be drawn; add one of them"
            )
        positions = positions or usable_positions(module)
    padding = _number(module, ("pad_token_id",), least=0)
    probes = _Probes(name, module, make_inputs, vocabulary, seed, _lengths(positions))
    outputs = probes.outputs(vocabulary)
    generates = takes_ids and callable(getattr(module, "step", None)) and list(outputs) == [LOGITS]
    return {
        "task": "lm" if _is_language_model(outputs, vocabulary) else "base",
        "inputs": probes.names,
        "input_axes": probes.input_axes(),
        "makes_inputs": not takes_ids,
        "outputs": list(outputs),
        "whole_outputs": [key for key, axes in outputs.items() if axes[0] != "length"],
        "output_width": max(math.prod(size for size in axes if isinstance(size, int)) for axes in outputs.values()),
        "vocab_size": vocabulary or 1,
        "positions": positions,
        "pad_token_id": padding if padding is not None and padding < (vocabulary or 1) else 0,
        "example_length": probes.lengths[0],
        "keeps_keys_and_values": generates,
        "cache_elements_per_token": probes.cache_elements() if generates else None,
    }


def _is_language_model(outputs: Mapping[str, Sequence[Any]], vocabulary: int | None) -> bool:
    return vocabulary is not None and list(outputs.get(LOGITS, ())) == ["length", vocabulary]


def _number(module: Any, names: Iterable[str], least: int = 1) -> int | None:
    """The first of attributes `names` of the module or of its config that is a whole number from `least` on."""
    for place in (module, getattr(module, "config", None)):
        for name in names:
            value = getattr(place, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value >= least:
                return value
    return None


def _lengths(positions: int | None) -> tuple[int, int]:
    """Two lengths to try, different wherever there are two positions."""
    if positions is None or positions >= max(LENGTHS):
        return LENGTHS
    return max(1, positions // 2), positions


class _Probes:
    """Calls of one module: at two lengths, and at two batch sizes."""

    def __init__(
        self, name: str, module: Any, make_inputs: Callable[..., Any] | None, vocabulary: int | None, seed: int,
        lengths: tuple[int, int],
    ) -> None:  # fmt: skip
        self.name, self.module, self.lengths, self.vocabulary = name, module, lengths, vocabulary
        shapes = [(EXAMPLE_BATCH, lengths[0]), (EXAMPLE_BATCH, lengths[1]), (OTHER_BATCH, lengths[0])]
        if make_inputs is None:
            self.names = list(INPUTS if MASK in inspect.signature(module.forward).parameters else INPUTS[:1])
            self.inputs = [example_ids(self.names, vocabulary or 1, *shape) for shape in shapes]
        else:
            self.inputs = [made_inputs(name, make_inputs, *shape, seed) for shape in shapes]
            self.names = list(self.inputs[0])
            self._check_same(made_inputs(name, make_inputs, *shapes[0], seed))
        self.has_mask = make_inputs is None and MASK in self.names
        self.given = [self._call(arrays, shape) for arrays, shape in zip(self.inputs, shapes, strict=True)]

    def _check_same(self, again: Arrays) -> None:
        import numpy as np

        first = self.inputs[0]
        if any(list(arrays) != self.names for arrays in (*self.inputs, again)):
            raise ModelError(f"module {self.name!r}: make_inputs gives other names at other shapes; give the same")
        if not all(np.array_equal(first[key], again[key]) for key in first):
            raise ModelError(
                f"module {self.name!r}: make_inputs gives other arrays for the same seed; seed what it draws from"
            )
        for key in first:
            if len({arrays[key].ndim for arrays in self.inputs}) > 1:
                raise ModelError(f"module {self.name!r}: make_inputs gives {key!r} another number of axes at times")

    def _call(self, arrays: Arrays, shape: tuple[int, int]) -> list[tuple[str | None, Any]]:
        """The module's outputs on host arrays, with their names where it names them."""
        import torch

        tensors = [torch.from_numpy(array) for array in arrays.values()]
        tensors = [tensor.to(self._dtype()) if tensor.is_floating_point() else tensor for tensor in tensors]
        try:
            with torch.inference_mode():
                output = self.module(tensors[0], attention_mask=tensors[1]) if self.has_mask else self.module(*tensors)
        except Exception as error:  # the user's code may raise anything
            raise ModelError(
                f"module {self.name!r}: forward fails on its own inputs, batch {shape[0]} and length {shape[1]} "
                f"({cause(error)}); correct it"
            ) from error
        try:
            found = named_outputs(output)
        except TypeError as error:
            raise ModelError(f"module {self.name!r}: forward returns {error}") from None
        for _, tensor in found:
            if tensor.ndim < 1 or tensor.shape[0] != shape[0]:
                raise ModelError(
                    f"module {self.name!r}: forward returns shape {list(tensor.shape)} for a batch of {shape[0]}; "
                    "the batch must be the first axis"
                )
        return found

    def _dtype(self) -> Any:
        """The type that the module computes in as it was made."""
        import torch

        floating = (tensor.dtype for tensor in self.module.parameters() if tensor.is_floating_point())
        return next(floating, torch.float32)

    def input_axes(self) -> list[list[str | None]]:
        """What each axis of each input counts: "batch", "length", "other" where it changes otherwise, or None."""
        return [
            _axes(*(arrays[key].shape for arrays in self.inputs), lengths=self.lengths)  # type: ignore[misc]
            for key in self.names
        ]

    def outputs(self, vocabulary: int | None) -> dict[str, list[Any]]:
        """Name of each output, and its axes behind the batch: "length", or their sizes."""
        first, longer, _ = self.given
        if len(first) != len(longer):
            raise ModelError(f"module {self.name!r}: forward returns another number of outputs at times")
        axes = [
            [kind or size for kind, size in zip(_axes(a.shape, b.shape, a.shape, lengths=self.lengths)[1:],
                                                a.shape[1:], strict=True)]
            for (_, a), (_, b) in zip(first, longer, strict=True)
        ]  # fmt: skip
        is_head = [entry == ["length", vocabulary] for entry in axes]
        names = [name or (f"output_{index}" if len(first) > 1 else "output") for index, (name, _) in enumerate(first)]
        if LOGITS not in names and any(is_head):
            names[is_head.index(True)] = LOGITS
        if len(set(names)) < len(names):
            raise ModelError(f"module {self.name!r}: two of its outputs have one name, of {', '.join(names)}")
        return dict(zip(names, axes, strict=True))

    def cache_elements(self) -> int:
        """Elements that the cache grows by with each token of one sequence, found by two steps."""
        import torch

        ids = torch.from_numpy(self.inputs[1]["input_ids"][:1])
        split, whole = self.lengths[0] if self.lengths[0] < self.lengths[1] else 0, self.lengths[1]
        if not split:
            raise ModelError(f"module {self.name!r} has one position, so its step cannot be tried; leave step out")
        sizes, cache = [], None
        for start, end in ((0, split), (split, whole)):
            mask = torch.ones(1, end, dtype=torch.int64)
            try:
                with torch.inference_mode():
                    logits, cache = self.module.step(ids[:, start:end], mask, cache)
            except Exception as error:
                raise ModelError(
                    f"module {self.name!r}: step fails ({cause(error)}); correct it, or leave it out"
                ) from error
            if not isinstance(cache, tuple) or not all(isinstance(entry, torch.Tensor) for entry in cache):
                raise ModelError(f"module {self.name!r}: the cache of step must be a flat tuple of tensors")
            wanted = ([1, self.vocabulary], [1, end - start, self.vocabulary])
            if not isinstance(logits, torch.Tensor) or list(logits.shape) not in wanted:
                raise ModelError(
                    f"module {self.name!r}: step must give logits [rows, new, vocabulary] or of the last alone"
                )
            sizes.append(sum(int(tensor.numel()) for tensor in cache))
        return (sizes[1] - sizes[0]) // (whole - split)


def _axes(
    first: Sequence[int], longer: Sequence[int], wider: Sequence[int], lengths: tuple[int, int]
) -> list[str | None]:
    """What each axis counts, from shapes at two lengths and at two batch sizes; the batch's axis is the first."""
    found: list[str | None] = ["batch"]
    for sizes in list(zip(first, longer, wider, strict=False))[1:]:
        if sizes[:2] == lengths and sizes[2] == sizes[0]:
            found.append("length" if "length" not in found or lengths[0] != lengths[1] else None)
        else:
            found.append(None if len(set(sizes)) == 1 else "other")
    return found


def example_ids(names: Sequence[str], vocabulary: int, batch: int, length: int) -> Arrays:
    """Ids of the vocabulary and a mask with padding where the module takes one, int64 [batch, length]."""
    import numpy as np

    ids = (np.arange(batch * length, dtype=np.int64).reshape(batch, length) + 5) % vocabulary
    mask = np.ones((batch, length), dtype=np.int64)
    mask[1, (length + 1) // 2 :] = 0
    return {name: array for name, array in zip(INPUTS, (ids, mask), strict=True) if name in names}


def made_inputs(name: str, make_inputs: Callable[..., Any] | None, batch: int, length: int, seed: int) -> Arrays:
    """What `make_inputs` gives, as host arrays int64, float32 or bool; raises ModelError for what is no input."""
    import numpy as np
    import torch

    assert make_inputs is not None
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    call = f"make_inputs({batch}, {length}, {seed})"
    try:
        made = make_inputs(batch, length, seed)
    except Exception as error:  # the user's code may raise anything
        raise ModelError(f"module {name!r}: {call} failed ({cause(error)}); correct it") from error
    if (
        not isinstance(made, Mapping)
        or not made
        or not all(isinstance(key, str) and key.isidentifier() for key in made)
    ):
        raise ModelError(f"module {name!r}: {call} returned no dict of name to array; return e.g. {{'input_ids': ids}}")
    arrays = {}
    for key, value in made.items():
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
        if not isinstance(array, np.ndarray) or array.dtype.kind not in DTYPES:
            kind = array.dtype if isinstance(array, np.ndarray) else type(value).__name__
            raise ModelError(
                f"module {name!r}: {call} returned {kind} as {key!r}; return int64 or float arrays or tensors"
            )
        if array.ndim < 1 or array.shape[0] != batch:
            raise ModelError(
                f"module {name!r}: {call} returned shape {list(array.shape)} as {key!r}; "
                "its first axis must be the batch"
            )
        arrays[key] = np.ascontiguousarray(array, dtype=DTYPES[array.dtype.kind])
    return arrays


def named_outputs(output: Any) -> list[tuple[str | None, Any]]:
    """Tensors of a module's output, with the names that a dict gives them; None among them is left out.

    Raises TypeError, worded for the user, for anything that is no floating-point tensor.
    """
    import torch

    if isinstance(output, Mapping):
        pairs: list[tuple[str | None, Any]] = [(str(key), value) for key, value in output.items()]
    elif isinstance(output, tuple | list):
        pairs = [(None, value) for value in output]
    else:
        pairs = [(None, output)]
    found = [(key, value) for key, value in pairs if value is not None]
    for key, value in found:
        label = f" as {key!r}" if key else ""
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{type(value).__name__}{label}; return a tensor, or a tuple, list or dict of tensors")
        if not value.is_floating_point():
            raise TypeError(f"{value.dtype}{label}; return floating-point tensors alone")
    if not found:
        raise TypeError("nothing; return a tensor, or a tuple, list or dict of tensors")
    return found
