"""Corpora in an object store: inputs and outputs of the stages, with faults, kills and readers in between."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest
from faulty_store import Store, many_faults, no_fault

from babyllm.__main__ import run
from babyllm.errors import UserError
from babyllm.object_store import stage_paths, transfers
from babyllm.object_store.object_addresses import Address
from babyllm.tokenizer import Tokenizer

AGES_AGO = (1_700_000_000, 1_700_000_000)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder with two files of texts, some of which are repeated."""
    folder = tmp_path / "local" / "raw"
    folder.mkdir(parents=True)
    for number in range(2):
        rng = random.Random(number)
        texts = ["".join(map(chr, rng.choices(range(20000, 21000), k=150))) for _ in range(30)]
        texts += texts[:5]
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
        (folder / f"{number}.jsonl").write_text("".join(lines), encoding="utf-8")
        os.utime(folder / f"{number}.jsonl", AGES_AGO)
    return folder


def put(folder: Path, url: str) -> None:
    for file in sorted(folder.iterdir()):
        transfers.upload(file, Address.of(url) / file.name)


def stages(place: str, tokenizer: Path, *flags: str) -> None:
    """Clean, deduplicate and tokenize PLACE/raw, with one worker."""
    flags = ("--work.workers=1", *flags)
    run(["clean", f"{place}/raw", f"{place}/clean", *flags])
    run(["dedup", f"{place}/clean", f"{place}/dedup", *flags])
    run(["tokenize", f"{place}/dedup", f"{place}/tokens", f"--tokenizer={tokenizer}", "--held_out=0.2", *flags])


def kept(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files of documents and of tokens; the others say where they came from, and when."""
    return {name: content for name, content in files.items() if name.endswith((".parquet", ".bin"))}


def held(url: str) -> dict[str, bytes]:
    """All files at an address."""
    address = Address.of(url)
    return {name: transfers.read(address / name) for name in transfers.look(address)}


def test_stages_read_and_write_a_store_and_faults_change_nothing(
    store: Store, raw: Path, tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    """With throttled, failing, cut and short answers, stages write the bytes of a local run; no secret is shown.

    A tokenizer that is trained on a corpus of the store is the local one too.
    """
    tokenizer.save(tmp_path / "tokenizer")
    stages(str(raw.parent), tmp_path / "tokenizer")
    local = {
        f"{stage}/{path.name}": path.read_bytes()
        for stage in ("clean", "dedup", "tokens")
        for path in sorted((raw.parent / stage).iterdir())
        if not path.name.startswith(".")
    }
    put(raw, "s3://bucket/a/raw")
    store.seen.clear()
    store.plan = many_faults
    cache = tmp_path / "cache"
    stages("s3://bucket/a", tmp_path / "tokenizer", f"--work.cache.directory={cache}")
    faults = [fault for *_, fault in store.seen]
    assert all(faults.count(kind) > 2 for kind in ("busy", "broken", "cut", "short"))
    store.plan = no_fault
    there = held("s3://bucket/a")
    assert kept(there) == kept(local) and len(kept(local)) > 3
    assert {name for name in there if not name.startswith("raw/")} == set(local)
    for name, place in (("ours", str(raw.parent)), ("theirs", "s3://bucket/a")):
        flags = ("--vocab_size=1500", f"--work.cache.directory={cache}")
        run(["train-tokenizer", f"{place}/dedup", str(tmp_path / name), *flags])
    models = [(tmp_path / name / "tokenizer.model").read_bytes() for name in ("ours", "theirs")]
    assert models[0] == models[1]
    with pytest.raises(UserError, match="give a local directory"):
        run(["train-tokenizer", "s3://bucket/a/dedup", "s3://bucket/a/tokenizer"])
    shutil.rmtree(cache)  # another machine
    run(["clean", "s3://bucket/a/raw", "s3://bucket/a/clean", f"--work.cache.directory={cache}"])
    out, err = capsys.readouterr()
    assert "s3://bucket/a/clean: complete already" in out and "secret" not in out + err


def test_no_reader_sees_an_unfinished_corpus_and_a_second_try_sends_the_rest(
    store: Store, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever an upload is stopped, readers refuse the corpus; a new start sends what is missing, mark last."""
    put(raw, "s3://bucket/b/raw")
    upload, written = stage_paths.upload, list[str]()
    allowed = 0

    def stopped(path: Path, address: Address) -> object:
        if len(written) == allowed:
            raise KeyboardInterrupt
        written.append(path.name)
        return upload(path, address)

    monkeypatch.setattr(stage_paths, "upload", stopped)
    monkeypatch.setattr(stage_paths, "in_parallel", lambda act, names: [act(name) for name in names])
    made = ["clean", "s3://bucket/b/raw", "s3://bucket/b/clean", f"--work.cache.directory={tmp_path / 'cache'}"]
    made += ["--work.workers=1", "--work.partition_bytes=8000"]
    read = ["clean", "s3://bucket/b/clean", str(tmp_path / "out"), f"--work.cache.directory={tmp_path / 'other'}"]
    sent: list[str] = []
    for _ in range(30):
        written.clear()
        try:
            run(made)
        except KeyboardInterrupt:
            with pytest.raises(UserError, match=r"s3://bucket/b/clean: (is being written|does not exist)"):
                run(read)
        sent += [name for name in written if name != ".uploading"]
        if "corpus.json" in written:
            break
        allowed = 4
    assert len(sent) == len(set(sent)) > 6 and sent[-1] == "corpus.json"
    run(read)
    with pytest.raises(UserError, match="was made with other filters"):
        run([*made, '--filters=["length"]'])


def test_what_is_wrong_with_an_address_is_one_line(
    store: Store, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing inputs, a missing bucket, others' files, a busy store and credentials in an address each end clearly."""
    put(raw, "s3://bucket/c/raw")
    cache = f"--work.cache.directory={tmp_path / 'cache'}"

    def told(*arguments: str) -> str:
        with pytest.raises(UserError) as caught:
            run(["clean", *arguments, cache])
        assert "\n" not in str(caught.value)
        return str(caught.value)

    out = str(tmp_path / "out")
    assert told("s3://bucket/none", out).startswith("s3://bucket/none: does not exist")
    assert told("s3://other/raw", out).startswith("s3://other/raw: does not exist")
    assert told(str(raw), "s3://other/out").startswith("s3://other/out/.uploading: cannot be reached")
    assert told("s3://bucket", out).startswith("s3://bucket: name a folder or file in a bucket")
    assert "s3://bucket/c: overlaps s3://bucket/c/raw" in told("s3://bucket/c/raw", "s3://bucket/c")
    assert "s3://bucket/c/raw/0.jsonl: exists" in told(str(raw), "s3://bucket/c/raw")
    secret = told("s3://name:password@bucket/raw", out)
    assert "credentials belong in the environment" in secret and "password" not in secret
    monkeypatch.setattr(transfers, "ATTEMPTS", 2)
    store.plan = lambda number, method, path: "busy" if method == "GET" and "0.jsonl" in path else ""
    assert told("s3://bucket/c/raw", out).startswith("s3://bucket/c/raw/0.jsonl: failed 2 times")


def test_copies_stay_within_their_limit(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The copy not used for longest makes room for a new one; inputs that do not fit together are refused."""
    for name in ("one", "two", "three"):
        (tmp_path / name).write_bytes(os.urandom(7 << 20).hex().encode()[: 7 << 20])
        transfers.upload(tmp_path / name, Address.of(f"s3://bucket/d/{name}.txt"))
    cache = tmp_path / "cache"
    flags = ["--work.workers=1", f"--work.cache.directory={cache}", f"--work.cache.bytes={16 << 20}"]
    for number, name in enumerate(("one", "two", "three")):
        run(["clean", f"s3://bucket/d/{name}.txt", str(tmp_path / f"out{number}"), "--filters=[]", *flags])
    assert sorted(file.name for file in cache.rglob("*.txt")) == ["three.txt", "two.txt"]
    with pytest.raises(UserError, match=r"more bytes do not fit .* set --work\.cache\.bytes to at least 22,020,096"):
        run(["clean", *(f"s3://bucket/d/{n}.txt" for n in ("one", "two", "three")), str(tmp_path / "all"), *flags])


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(20))
def test_random_faults_change_nothing(store: Store, raw: Path, tmp_path: Path, seed: int) -> None:
    """A quarter of all requests fail in a random way, and the corpus is the one of a store without faults."""
    put(raw, "s3://bucket/e/raw")
    made = []
    for place in ("calm", "stormy"):
        rng = random.Random(seed)
        faults = ["busy", "broken", "cut", "short"]
        store.plan = (lambda *_: rng.choice(faults + [""] * 12)) if place == "stormy" else no_fault  # noqa: B023
        out, cache = f"s3://bucket/e/{place}{seed}", tmp_path / place
        run(["clean", "s3://bucket/e/raw", out, "--work.workers=1", f"--work.cache.directory={cache}"])
        store.plan = no_fault
        made.append(kept(held(out)) | {"corpus.json": held(out)["corpus.json"]})
    assert made[0] == made[1]


@pytest.mark.parametrize(("fault", "times"), [("garbled", 2), ("short", 4), ("encrypted", 99)])
def test_bytes_that_arrive_wrong_are_read_again(store: Store, tmp_path: Path, fault: str, times: int) -> None:
    """As many bytes as the store holds, but others: its tag shows it.

    Of answers that end early pyarrow makes up the rest, perhaps the same bytes each time. An encrypting store's tag is
    not an md5.
    """
    (tmp_path / "a").mkdir()
    text = bytes(range(256)) * 5
    (tmp_path / "a" / "a.txt").write_bytes(text)
    put(tmp_path / "a", "s3://bucket/wrong")
    address = Address.of("s3://bucket/wrong/a.txt")
    (remote,) = transfers.look(address).values()
    for act in (
        lambda: transfers.download(address, remote, tmp_path / "copy"),
        lambda: (tmp_path / "copy").write_bytes(transfers.read(address)),
    ):
        n = len(store.seen)
        store.plan = lambda number, method, path, n=n: fault if n <= number < n + times else ""
        act()
        store.plan = no_fault
        assert ("GET", "/bucket/wrong/a.txt", fault) in store.seen[n:]
        assert (tmp_path / "copy").read_bytes() == text
        (tmp_path / "copy").unlink()
