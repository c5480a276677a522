"""`babyllm select` on chat files: scores, rules, nested sets, and every record accounted for."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babyllm.__main__ import run
from babyllm.errors import UserError
from babyllm.selection.numeric.importance import ImportanceConfig, count
from babyllm.selection.numeric.keys import text_keys, uniform

N = 60


def chats(folder: Path) -> Path:
    """Two files of conversations with a score, and one record that is not a conversation."""
    folder.mkdir(exist_ok=True)
    records: list[dict[str, Any]] = [
        {"instruction": f"问 {n}", "output": "答" * (n % 9 + 1), "score": math.sin(n), "id": n, "kind": "abc"[n % 3]}
        for n in range(N)
    ]
    for name, part in (("a.jsonl", records[: N // 2]), ("b.jsonl", records[N // 2 :])):
        lines = [json.dumps(record, ensure_ascii=False) for record in part]
        (folder / name).write_text("\n".join([*lines, "{}"]) + "\n", encoding="utf-8")
    return folder


def select(source: Path, out: Path, *flags: str) -> dict[str, list[int]]:
    """The ids that are kept, by the folder of a nested set; each record is kept or rejected with a reason."""
    run(["select", str(source), str(out), *flags])
    kept: dict[str, list[int]] = {}
    for file in sorted(out.rglob("*.jsonl")):
        if file.name != "rejected.jsonl":
            part = file.relative_to(out).parts[0] if len(file.relative_to(out).parts) > 2 else ""
            lines = file.read_text(encoding="utf-8").splitlines()
            kept.setdefault(part, []).extend(json.loads(line)["id"] for line in lines)
    rejected = (out / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    largest = max(kept.values(), key=len)
    assert len(largest) + len(rejected) == N + 2
    assert all(json.loads(line)["reason"] and json.loads(line)["line"] for line in rejected)
    return kept


def test_the_best_are_kept_in_nested_sets(tmp_path: Path) -> None:
    """With a list of shares, each folder holds the best of that share, and scores.parquet the ranks of all."""
    kept = select(chats(tmp_path / "in"), tmp_path / "out", "--scores=[field:score]", "--keep=[0.1, 0.5]")
    order = sorted(range(N), key=lambda n: -math.sin(n))
    assert {name: sorted(ids) for name, ids in kept.items()} == {"0.1": sorted(order[:6]), "0.5": sorted(order[:30])}
    table = pq.read_table(tmp_path / "out" / "scores.parquet").to_pydict()
    assert [table["rank"][n] for n in order[:30]] == list(range(30))
    assert {table["why"][n] for n in order[30:]} == {"not chosen by the rule top"}


def test_bounds_drop_and_say_so(tmp_path: Path) -> None:
    """Only scores within the bounds take part; the reason names the score and the bound."""
    source, out = chats(tmp_path / "in"), tmp_path / "out"
    kept = select(source, out, "--scores=[field:score]", "--within={score: [0, 0.5]}", "--rule=random")
    assert kept[""] == [n for n in range(N) if 0 <= math.sin(n) <= 0.5]
    reasons = Counter(json.loads(line)["reason"] for line in (out / "rejected.jsonl").read_text().splitlines())
    assert {"score below 0", "score above 0.5"} < set(reasons)


def test_random_shares_are_stable_and_nested(tmp_path: Path) -> None:
    """A smaller share is part of a larger one, and neither order nor other files change a choice."""
    source = chats(tmp_path / "in")
    small = select(source, tmp_path / "s", "--keep=0.2", "--rule=random")[""]
    large = select(source, tmp_path / "l", "--keep=0.6", "--rule=random")[""]
    assert set(small) < set(large) and (len(small), len(large)) == (12, 36)
    by_task = select(source, tmp_path / "t", "--share={a: 0.5, b: 0.0}")[""]
    tasks = Counter("abc"[n % 3] for n in by_task)
    assert tasks["b"] == 0 and tasks["c"] == 20 and 4 <= tasks["a"] <= 16
    lines = (source / "a.jsonl").read_text(encoding="utf-8").splitlines()
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "z.jsonl").write_text("\n".join(reversed(lines)) + "\n", encoding="utf-8")
    run(["select", str(alone), str(tmp_path / "r"), "--share={a: 0.5, b: 0.0}"])
    again = {json.loads(line)["id"] for line in (tmp_path / "r" / "alone" / "z.jsonl").read_text().splitlines()}
    assert again == {n for n in by_task if n < N // 2}


def test_groups_have_the_same_share(tmp_path: Path) -> None:
    """With --each, the rule works within each task and keeps the same share of each."""
    kept = select(chats(tmp_path / "in"), tmp_path / "out", "--scores=[field:score]", "--keep=0.3", "--each=task")[""]
    for task in range(3):
        order = sorted(range(task, N, 3), key=lambda n: -math.sin(n))
        assert sorted(n for n in kept if n % 3 == task) == sorted(order[:6])


def test_products_of_scores_rank(tmp_path: Path) -> None:
    """DEITA's score is a product, and records that resemble better ones are left out."""
    source, vectors = chats(tmp_path / "in"), np.zeros((N, 2), np.float32)
    vectors[:, 0], vectors[::2, 1] = 1, 1  # two directions
    np.save(tmp_path / "v.npy", vectors)
    flags = ["--scores=[field:score, text]", "--by=score*answer_characters", f"--vectors={tmp_path / 'v.npy'}"]
    order = sorted(range(N), key=lambda n: -math.sin(n) * (n % 9 + 1))
    assert sorted(select(source, tmp_path / "top", *flags, "--keep=5")[""]) == sorted(order[:5])
    two = [next(n for n in order if n % 2 == side) for side in (0, 1)]
    assert sorted(select(source, tmp_path / "out", *flags, "--rule=diverse", "--keep=5")[""]) == sorted(two)


@pytest.mark.parametrize(("limit", "n"), [("7", 7), ("1KB", None)])
def test_limits_stop_in_the_order_of_the_rule(tmp_path: Path, limit: str, n: int | None) -> None:
    """A limit keeps the first records of the order that fit."""
    source = chats(tmp_path / "in")
    kept = select(source, tmp_path / "out", "--scores=[field:score]", f"--limit={limit}")[""]
    order = sorted(range(N), key=lambda n: -math.sin(n))
    if n is None:
        sizes = np.cumsum([len(f"问 {i}\n{'答' * (i % 9 + 1)}".encode()) for i in order])
        n = int((sizes <= 1024).sum())
    assert sorted(kept) == sorted(order[:n])


def test_vectors_and_scores_come_from_files(tmp_path: Path) -> None:
    """k-center starts from earlier selections and keeps what is farthest; a table's columns are scores."""
    source, rng = chats(tmp_path / "in"), np.random.default_rng(1)
    vectors = rng.normal(size=(N, 4)).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    pq.write_table(pa.table({"mark": np.arange(N)[::-1]}), tmp_path / "t.parquet")
    flags = [f"--vectors={tmp_path / 'v.npy'}", "--rule=k_center", "--keep=5"]
    first = select(source, tmp_path / "one", *flags)[""]
    second = select(source, tmp_path / "two", *flags, f"--chosen=[{tmp_path / 'one'}]")[""]
    assert set(first) < set(second) and len(second) == 10
    covered, centres = first, sorted(first)
    for _ in range(5):
        nearest = np.linalg.norm(vectors[:, None].astype(float) - vectors[centres].astype(float), axis=2).min(axis=1)
        centres.append(int(nearest.argmax()))
    assert sorted(second) == sorted(centres) and len(covered) == 5
    best = select(source, tmp_path / "three", f"--table={tmp_path / 't.parquet'}", "--by=mark", "--keep=3")[""]
    assert best == [0, 1, 2]


def test_importance_of_conversations_equals_brute_force(tmp_path: Path) -> None:
    """Weights are sums of log ratios of smoothed bucket shares, and the draw adds noise that the text decides."""
    source, target = chats(tmp_path / "in"), tmp_path / "target.jsonl"
    target.write_text(
        json.dumps({"instruction": "问 7", "output": "答答答"}, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    flags = ["--scores=[importance]", f"--target=[{target}]", "--importance.buckets=64", "--keep=10"]
    kept = select(source, tmp_path / "out", *flags)[""]
    config = ImportanceConfig(buckets=64)
    texts = [f"问 {n}\n{'答' * (n % 9 + 1)}" for n in range(N)]
    each = np.stack([count([text], config) for text in texts])
    raw, wanted = each.sum(axis=0) + 1.0, count(["问 7\n答答答"], config) + 1.0
    ratios = np.log(wanted / wanted.sum()) - np.log(raw / raw.sum())
    weights = each @ ratios
    draw = weights - np.log(-np.log(uniform(text_keys(texts), config.seed)))
    table = pq.read_table(tmp_path / "out" / "scores.parquet").to_pydict()
    assert np.allclose(table["importance"], weights) and np.allclose(table["importance_draw"], draw)
    assert sorted(kept) == sorted(np.argsort(-draw)[:10].tolist())


def test_functions_score_conversations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of the user's own ranks conversations by what it returns."""
    (tmp_path / "my_score.py").write_text(
        "def length(conversations):\n    return [len(c['messages'][-1]['content']) for c in conversations]\n"
    )
    monkeypatch.chdir(tmp_path)
    kept = select(chats(tmp_path / "in"), tmp_path / "out", "--scores=[my_score:length]", "--keep=6")[""]
    assert {n % 9 for n in kept} == {8}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--scores=[idf]"], "there is no scorer idf"),
        (["--scores=[ifd]"], "--model: is missing, and the scorer ifd needs it"),
        (["--rule=k_center"], "needs vectors"),
        (["--rule=top"], "needs a score"),
        (["--scores=[field:nope]"], "no conversation is left to choose from: 60 x no score nope"),
        (["--scores=[field:kind]"], "the field kind is not a number"),
        (["--scores=[field:score]", "--by=scores"], "there is no score scores; there are score"),
        (["--share={d: 0.5}"], "there is no task or file d; there are a, b, c"),
        (["--keep=[0.5, 0.1]"], "give growing shares"),
        (["--limit=ten"], "give a number of records"),
        (["--within={score: [1]}"], "give two bounds"),
        (["--scores=[importance]"], "--target: the scorer importance needs it"),
        (["--weights=neighbours"], "needs vectors|is for --rule=weighted"),
        (["--vectors=nope.npy"], "no such file"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, flags: list[str], message: str) -> None:
    """Each wrong or missing setting is one line that names it."""
    with pytest.raises(UserError, match=message):
        run(["select", str(chats(tmp_path / "in")), str(tmp_path / "out"), *flags])


def test_a_finished_selection_is_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command does nothing again, and another rule needs another directory."""
    source, out = chats(tmp_path / "in"), tmp_path / "out"
    select(source, out, "--keep=0.2")
    capsys.readouterr()
    select(source, out, "--keep=0.2")
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="was made with other settings"):
        run(["select", str(source), str(out), "--keep=0.3"])


def test_documents_are_drawn_by_share_and_likeness(tmp_path: Path) -> None:
    """A corpus keeps the share of a domain, and those most like the target; the rest stays as it was."""
    records = [{"text": f"{'天地' if n % 2 else '山水'}文章 {n} " * 5, "domain": "xy"[n % 2]} for n in range(80)]
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))
    run(["clean", str(tmp_path / "raw.jsonl"), str(tmp_path / "corpus"), "--filters=[]"])
    run(["select", str(tmp_path / "corpus"), str(tmp_path / "half"), "--kind=documents", "--share={x: 0.5}"])
    table = pq.read_table(next((tmp_path / "half").glob("part*.parquet"))).to_pydict()
    counts = Counter(table["domain"])
    assert counts["y"] == 40 and 10 <= counts["x"] <= 30
    (tmp_path / "target.txt").write_text("山水 山水 山水 山水")
    flags = ["--scores=[importance]", f"--target=[{tmp_path / 'target.txt'}]", "--keep=0.25", "--by=importance"]
    run(["select", str(tmp_path / "corpus"), str(tmp_path / "like"), "--kind=documents", *flags])
    table = pq.read_table(next((tmp_path / "like").glob("part*.parquet"))).to_pydict()
    assert table["domain"] == ["x"] * 20
    with pytest.raises(UserError, match="ifd is for conversations"):
        run(
            ["select", str(tmp_path / "corpus"), str(tmp_path / "z"), "--kind=documents", "--scores=[ifd]", "--model=m"]
        )
