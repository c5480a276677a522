"""Tokenizer files with damage of any kind: a line that names a file, or a tokenizer that works."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import sentencepiece_model_pb2
from tokenizer_fixtures import corpus, foreign_model

from babyllm.errors import UserError
from babyllm.tokenizer import Tokenizer

VALUES: list[Any] = [
    *(None, True, 0, -1, 1e308, 2**32 - 1, 2**63, 10**40, 0.5, float("nan"), float("inf")),
    *("", "a", "</s>", "\ud800", "[" * 50, "(", "x" * 500, [], ["a"], [[]], {}, {"a": 1}, {"type": "BPE"}),
    *(
        {"Regex": "("},
        {"Regex": "a{0}"},
        {"type": "ByteLevel"},
        {"type": "Sequence"},
        {"type": "Prepend", "prepend": ""},
    ),
]
INSERTS = (b"null", b"-1", b"1e999", b'"', b"{}", b"[]", b"\xff\xff\xff\xff\x0f", b"\n", b"\0")
TEXTS = ("the cat 今天\n", "<s>▁ \0 👍", "")


def kinds(folder: Path) -> Iterator[Path]:
    """A file of each kind, small, with a tokenizer_config.json beside it."""
    for kind in ("bpe", "unigram", "char", "byte_bpe", "wordpiece"):
        tokenizer = Tokenizer.train(corpus(40), 390, model_type=kind, hard_vocab_limit=False, n_threads=1)  # type: ignore[arg-type]
        tokenizer.save(folder / kind)
        if (folder / kind / "tokenizer.model").exists():
            shutil.copytree(folder / kind, folder / f"converted {kind}")
            (folder / f"converted {kind}" / "tokenizer.model").unlink()
            yield folder / kind / "tokenizer.model"
            yield folder / f"converted {kind}" / "tokenizer.json"
        else:
            yield folder / kind / "tokenizer.json"
    (folder / "foreign").mkdir()
    (folder / "foreign" / "tokenizer.model").write_bytes(foreign_model(corpus(40), model_type="bpe", vocab_size=300))
    yield folder / "foreign" / "tokenizer.model"
    for kind in ("bert", "letters"):
        (folder / kind).mkdir()
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "##e", "c", "##at", "今", "天"]
        lines = words if kind == "bert" else ["<unk>", "</s>", "", *"thecat 今天"]
        (folder / kind / "vocab.txt").write_text("\n".join(lines), encoding="utf-8")
        (folder / kind / "tokenizer_config.json").write_text('{"do_lower_case": true, "eos_token": null}')
        yield folder / kind / "vocab.txt"
        yield folder / kind / "tokenizer_config.json"


def with_damaged_bytes(raw: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(damaged) + 1)
        which = rng.randrange(4)
        if which == 0:
            damaged[at : at + 1] = rng.randbytes(1)
        elif which == 1:
            damaged[at:at] = rng.choice(INSERTS)
        elif which == 2:
            del damaged[at : at + rng.randrange(1, 60)]
        else:
            del damaged[at:]
    return bytes(damaged)


def with_another_value(raw: bytes, rng: random.Random) -> bytes:
    """The JSON file with another value, or without one, at a place that is drawn level by level."""
    content = json.loads(raw)
    place = content
    while True:
        key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
        if not isinstance(place[key], (dict, list)) or not place[key] or rng.random() < 0.2:
            break
        place = place[key]
    if rng.random() < 0.2:
        del place[key]
    else:
        place[key] = rng.choice(VALUES)
    return json.dumps(content).encode()


def with_another_field(raw: bytes, rng: random.Random) -> bytes:
    """The SentencePiece model with a piece, its type, or a setting of training or normalisation changed."""
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(raw)
    piece = rng.choice(proto.pieces)
    charsmap = proto.normalizer_spec.precompiled_charsmap
    changes: list[Callable[[], Any]] = [
        lambda: setattr(piece, "piece", rng.choice(("", "a", "</s>", "<0xZZ>", "\0", "▁", "x" * 10_000))),
        lambda: setattr(piece, "type", rng.randrange(1, 7)),
        lambda: setattr(piece, "score", rng.choice((float("nan"), float("inf"), -1e38))),
        lambda: setattr(proto.trainer_spec, "model_type", rng.randrange(1, 5)),
        lambda: setattr(proto.trainer_spec, "byte_fallback", not proto.trainer_spec.byte_fallback),
        lambda: setattr(proto.trainer_spec, rng.choice(("unk_piece", "eos_piece", "pad_piece")), "gone"),
        lambda: setattr(proto.normalizer_spec, "precompiled_charsmap", with_damaged_bytes(charsmap, rng)),
        lambda: setattr(proto.normalizer_spec, "add_dummy_prefix", True),
        lambda: proto.pieces.pop(rng.randrange(len(proto.pieces))),
        lambda: proto.pieces.add(piece="", score=0.0),
    ]
    for change in rng.sample(changes, rng.choice((1, 1, 3))):
        change()
    return bytes(proto.SerializeToString())


def use(place: Path, out: Path) -> None:
    tokenizer = Tokenizer.load(place)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        tokenizer.decode(ids)
        for token_id in ids:
            tokenizer.token_bytes(token_id)
    tokenizer.count_unknown([TEXTS[0].encode()])
    tokenizer.save(out)


@pytest.mark.parametrize("n_mutations", [300, pytest.param(2_000, marks=pytest.mark.campaign)])
@pytest.mark.filterwarnings("ignore:tokenizer.json may split some texts")
def test_any_damage_is_named_or_harmless(tmp_path: Path, n_mutations: int, capfd: pytest.CaptureFixture[str]) -> None:
    """A damaged file is a UserError of one line that names a file, or the tokenizer works; nothing else is printed."""
    rng = random.Random(0)
    files = list(kinds(tmp_path))
    refused = 0
    for number in range(n_mutations):
        file = files[number % len(files)]
        raw = file.read_bytes()
        other = with_another_field if file.suffix == ".model" else with_another_value
        structured = file.suffix != ".txt" and rng.random() < 0.7
        file.write_bytes((other if structured else with_damaged_bytes)(raw, rng))
        try:
            use(file.parent, tmp_path / "out")
        except UserError as error:
            refused += 1
            assert str(file.parent) in str(error) and "\n" not in str(error) and len(str(error)) < 1_000, error
        except BaseException as error:
            raise AssertionError(f"mutation {number} of {file.parent.name}/{file.name}") from error
        file.write_bytes(raw)
    assert n_mutations // 4 < refused < n_mutations
    assert capfd.readouterr() == ("", "")
