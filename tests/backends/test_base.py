"""Out-of-memory messages of every runtime, support answers, and what the registry loads."""

from __future__ import annotations

from dataclasses import replace

import pytest

import backends
from backends.base import (
    BackendError,
    OutOfMemoryError,
    Spec,
    UnsupportedError,
    one_line,
    parse_out_of_memory,
    runtime_errors,
)

MIB, GIB = 2**20, 2**30


@pytest.mark.parametrize(
    ("message", "figures"),
    [
        (
            "CUDA out of memory. Tried to allocate 576.00 MiB (GPU 0; 23.69 GiB total capacity; 21.73 GiB already "
            "allocated; 528.69 MiB free; 22.13 GiB reserved in total by PyTorch)",
            {"requested": 576 * MIB, "total": 23.69 * GIB, "allocated": 21.73 * GIB, "free": 528.69 * MIB, "reserved": 22.13 * GIB},
        ),
        (
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.81 GiB of which 1.50 GiB is "
            "free. Including non-PyTorch memory, this process has 138.29 GiB memory in use. Of the allocated memory "
            "137.00 GiB is allocated by PyTorch, and 650.00 MiB is reserved by PyTorch but unallocated.",
            {
                "requested": 2 * GIB, "total": 139.81 * GIB, "free": 1.5 * GIB, "allocated": 137 * GIB,
                "reserved_unallocated": 650 * MIB, "process": 138.29 * GIB,
            },
        ),
        (
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 68719476736 bytes. Error code 12 (Cannot allocate memory)",
            {"requested": 68719476736},
        ),
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running MatMul node. Status "
            "Message: bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer of size 402653184",
            {"requested": 402653184},
        ),
        (
            "BFCArena::AllocateRawInternal Available memory of 524288 is smaller than requested bytes of 1048576",
            {"requested": 1048576, "free": 524288},
        ),
        ("Unable to allocate 3.00 GiB for an array with shape (1, 2) and data type float64", {"requested": 3 * GIB}),
        ("std::bad_alloc", {}),
        ("CUDA failure 2: out of memory ; GPU=0", {}),
        ("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)", {}),
        *((other, None) for other in ("index out of range in self", "CUDA error: an illegal memory access")),
    ],
)  # fmt: skip
def test_out_of_memory_is_recognised_and_its_figures_are_read(message: str, figures: dict[str, float] | None) -> None:
    expected = None if figures is None else {f"{name}_bytes": round(value) for name, value in figures.items()}
    assert parse_out_of_memory(message) == expected


def test_whatever_a_runtime_raises_becomes_one_kind() -> None:
    with pytest.raises(OutOfMemoryError) as caught, runtime_errors():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes.")
    assert caught.value.figures == {"requested_bytes": 64}
    with pytest.raises(OutOfMemoryError), runtime_errors():
        raise MemoryError
    with pytest.raises(BackendError, match=r"^IndexError: two lines$"), runtime_errors():
        raise IndexError("two\nlines")
    with pytest.raises(UnsupportedError, match=r"^as it is$"), runtime_errors():
        raise UnsupportedError("as it is")
    assert len(one_line(ValueError("x" * 5000))) == 600


def test_a_refusal_names_the_remedy() -> None:
    onnx = backends.load_class("onnx")
    assert onnx.supports("default", "cpu", "bf16") == "onnx has no bf16 on cpu; use --precisions fp32,fp16,int8"
    assert "use --device cpu" in str(backends.load_class("null").supports("default", "cuda", "fp32"))
    absent = Spec(name="absent", format=None, requires=("no_such_module",), install="absent-runtime")
    assert absent.missing() == ["no_such_module"]
    assert (
        absent.refusal("cpu", "fp32") == "absent needs no_such_module, not installed; run: pip install 'absent-runtime'"
    )
    # optimum can be imported without optimum-onnx.
    spec = Spec(name="half", format=None, requires=("json",), distributions=("no-such-distribution",), install="half")
    assert spec.missing() == ["no-such-distribution"]
    assert "half needs no-such-distribution, not installed" in str(spec.refusal("cpu", "fp32"))
    assert replace(spec, distributions=("numpy",)).versions().keys() == {"numpy"}


def test_what_a_variant_declares_comes_before_what_its_backend_does() -> None:
    spec = Spec(
        name="converting",
        format="onnx",
        variants={"default": {}, "traced": {"format": "torchscript", "artifact_precisions": {}}},
        artifact_precisions={"int8": "fp32"},
        compiled_per_shape=("default",),
    )
    names = ("default", "traced", "full-passes")
    assert [spec.format_of(name) for name in names] == ["onnx", "torchscript", "onnx"]
    assert [spec.artifact_precision(name, "int8") for name in names[:2]] == ["fp32", "int8"]
    assert spec.artifact_precision("default", "bf16") == "bf16"
    assert [spec.compiles_every_shape(name) for name in names] == [True, False, True]
