"""The container of GGUF and its number formats, with the library `gguf` as the judge, and damaged files."""

import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from babyllm.errors import UserError
from babyllm.interop.gguf.blocks import Kind, quantised
from babyllm.interop.gguf.container import TensorSource, is_gguf, read_header, read_tensor, write_file
from babyllm.interop.gguf.convert import open_gguf, write_gguf
from babyllm.interop.open_model import in_memory
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

N_TRACED = 60  # measuring memory takes twice the time


def values_of(shape: tuple[int, ...]) -> np.ndarray:
    """Values of very different sizes, with rows of zeros and of halves."""
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(shape) * rng.choice([1e-6, 1.0, 100.0], (shape[0], 1))).astype(np.float32)
    values[3], values[4], values[4, 0] = 0, 0.5, 127
    return values


def file_of(path: Path, add: Callable[[gguf.GGUFWriter], Any]) -> Path:
    """A file that the library wrote."""
    writer = gguf.GGUFWriter(path, "llama")
    add(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_what_is_quantised_has_the_bytes_of_the_reference(kind: Kind) -> None:
    """Rounding and scales are those of llama.cpp, to the bit."""
    values = values_of((37, 96))
    expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    assert bytes(quantised(values, kind, "a tensor")) == expected.tobytes()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_tensors_have_the_values_of_the_reference(tmp_path: Path, kind: str) -> None:
    """Every format that is read becomes the float32 values that the library computes, to the bit."""
    number = gguf.GGMLQuantizationType[kind]
    raw = gguf.quants.quantize(values_of((37, 96)), number)
    path = file_of(tmp_path / "a.gguf", lambda writer: writer.add_tensor("a.weight", raw, raw_dtype=number))
    expected = gguf.quants.dequantize(raw, number)
    found = read_tensor(read_header(path), "a.weight")
    assert found.shape == (37, 96) and found.tobytes() == expected.astype(np.float32).tobytes()


def test_metadata_are_plain_values(tmp_path: Path) -> None:
    """Numbers, truth values, texts and lists of every type are read as the library wrote them, also from version 2."""

    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_uint8("a.u8", 200)
        writer.add_int64("a.i64", -(2**40))
        writer.add_float32("a.f32", 1e-5)
        writer.add_float64("a.f64", 0.1)
        writer.add_bool("a.bool", True)
        writer.add_string("a.text", "文字")
        writer.add_array("a.texts", ["x", "", "很"])
        writer.add_array("a.numbers", [1, 2, 3])

    path = file_of(tmp_path / "a.gguf", add)
    second = bytearray(path.read_bytes())
    second[4] = 2
    for content in (path.read_bytes(), bytes(second)):
        path.write_bytes(content)
        metadata = read_header(path).metadata
        assert metadata["a.numbers"].tolist() == [1, 2, 3]
        plain = {key: value for key, value in metadata.items() if key.startswith("a.") and key != "a.numbers"}
        assert plain == {
            **{"a.u8": 200, "a.i64": -(2**40), "a.f32": 1e-5, "a.f64": 0.1, "a.bool": True, "a.text": "文字"},
            "a.texts": ["x", "", "很"],
        }


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    """Keys, shapes, formats and values of a written file are what `gguf.GGUFReader` finds."""
    values, path = values_of((8, 64)), tmp_path / "a.gguf"
    metadata = {"general.architecture": "llama", "a.n": 3, "a.x": 0.5, "a.b": False, "a.t": ["x", "很"]}
    metadata["a.i"] = np.array([1, -1], np.int32)
    tensors = [TensorSource("v", (5,), lambda: values[0, :5]), TensorSource("m", (8, 64), lambda: values)]
    tensors.append(TensorSource("odd", (8, 40), lambda: np.ascontiguousarray(values[:, :40])))
    write_file(path, metadata, tensors, "Q8_0")
    reader = gguf.GGUFReader(path)
    found = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert found == metadata | {"a.i": [1, -1]}
    assert [(t.name, t.shape.tolist(), t.tensor_type.name) for t in reader.tensors] == [
        ("v", [5], "F32"),
        ("m", [64, 8], "Q8_0"),
        ("odd", [40, 8], "F16"),
    ]
    for tensor, expected in zip(reader.tensors, (values[0, :5], values, values[:, :40]), strict=True):
        assert tensor.data.tobytes() == gguf.quants.quantize(np.array(expected), tensor.tensor_type).tobytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty, not a GGUF file"),
        (b"PK\x03\x04" + bytes(100), "is not a GGUF file"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(100), "is big-endian; take the file for ordinary processors"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(100), "has version 1 of GGUF, where 2 or 3 is wanted"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0) + bytes(100), "is damaged or cut short; download it again"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 63) + bytes(100), "is damaged or cut short; download it again"),
    ],
)
def test_what_is_not_read_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    """A file of another version or byte order, or of no kind at all, is refused in one line that names it."""
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_header(path)
    assert str(error.value).startswith(f"{path}: {message}")
    assert is_gguf(path) == content.startswith(b"GGUF")


def test_other_formats_of_numbers_are_refused_by_name(tmp_path: Path) -> None:
    """A tensor of another format is refused with its name and what to take instead; so is one with NaN."""

    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("a", np.zeros((2, 210), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q6_K)

    with pytest.raises(UserError, match=r"'a' has the format Q6_K, which is not read.*take the F16 or Q8_0 file"):
        read_header(file_of(tmp_path / "a.gguf", add))
    path = file_of(tmp_path / "b.gguf", lambda writer: writer.add_tensor("b", np.array([1, np.nan], np.float32)))
    with pytest.raises(UserError, match="tensor 'b' holds NaN or infinity"):
        read_tensor(read_header(path), "b")
    with pytest.raises(UserError, match="tensor 'c' holds NaN or infinity"):
        write_file(path, {}, [TensorSource("c", (1,), lambda: np.array([np.inf], np.float32))], "F32")
    with pytest.raises(UserError, match="tensor 'c': holds a value that is too large for Q8_0; write F32"):
        write_file(path, {}, [TensorSource("c", (1, 32), lambda: np.full((1, 32), 1e8, np.float32))], "Q8_0")


def damaged(content: bytes, end: int, rng: random.Random) -> bytes:
    """A copy with a few bytes or numbers of its header changed, or cut short, or with bytes left out or added."""
    copy, kind = bytearray(content), rng.randrange(6)
    at = rng.randrange(end)
    if kind == 0:
        return bytes(copy[: rng.randrange(len(copy))])
    if kind == 1:
        del copy[at : at + rng.randint(1, 16)]
    elif kind == 2:
        copy[at:at] = rng.randbytes(rng.randint(1, 16))
    elif kind == 3:
        copy[at : at + 8] = struct.pack("<Q", rng.choice([0, 1, 1 << 20, 1 << 31, 1 << 40, (1 << 63) + 1, 2**64 - 1]))
    elif kind == 4:
        copy[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 7, 8, 9, 12, 30, 1 << 24, 2**32 - 1]))
    else:
        for _ in range(rng.randint(1, 4)):
            copy[rng.randrange(end)] = rng.randrange(256)
    return bytes(copy)


@pytest.mark.parametrize("n_damaged", [300, pytest.param(2_000, marks=pytest.mark.campaign)])
def test_damaged_files_are_refused_in_one_line(
    n_damaged: int, tmp_path: Path, byte_level: Tokenizer, random_model: Callable[..., Transformer]
) -> None:
    """Whatever happens to a file: it is read, or refused in a line that names it; never with much memory."""
    path = tmp_path / "model.gguf"
    model = random_model(n_layers=1, d_model=8, n_heads=2, n_kv_heads=1, d_ff=8, qk_norm=True)
    write_gguf(path, in_memory(model, byte_level, "x"))
    content, rng = path.read_bytes(), random.Random(1)
    end = min(place.start for place in read_header(path).tensors.values())
    open_gguf(path)  # what is loaded once is not counted
    n_read, peak = 0, 0
    tracemalloc.start()
    for i in range(n_damaged):
        if i == N_TRACED:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        path.write_bytes(damaged(content, end, rng))
        try:
            foreign = open_gguf(path)
            foreign.read("layers.0.self_attn.q_proj.weight")
            n_read += 1
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
    assert 0 < n_read < n_damaged / 2
    assert peak < 100 * len(content)
