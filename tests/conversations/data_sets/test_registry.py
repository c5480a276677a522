"""A registry of data sets: what it says of files, what a run names, and what is recorded of it."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conversations_fixtures import ONE, write_jsonl

from babyllm.chat.formats import FormatConfig, PreferenceFormat
from babyllm.chat.load import ChatTemplate, Supervise
from babyllm.chat.registry.data_set import DataSet
from babyllm.chat.registry.registry_file import named_data, read_registry
from babyllm.config import parse
from babyllm.data.conversation_config import ConversationConfig
from babyllm.data.conversation_data import ConversationData, make_loader, open_conversation_data
from babyllm.errors import UserError
from babyllm.interop.huggingface import save_model
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.pipeline.partitions import WorkConfig
from babyllm.pipeline.report import Report
from babyllm.prepare.conversations import prepare_conversations
from babyllm.prepare.preference_pairs import prepare_pairs
from babyllm.publishing.card import write_card
from babyllm.runtime import Runtime
from babyllm.schedule import Plan
from babyllm.store.conversations import ConversationStore
from babyllm.store.data_sets import DATA_SETS, read_data_sets
from babyllm.tokenizer import Tokenizer
from babyllm.training.stages.fine_tuning import new_run
from babyllm.training.stages.fine_tuning_config import FineTuneConfig

ROOT = Path(__file__).resolve().parents[3]
SEQ_LEN = 200


def prepare(data: list[Any], directory: Path, template: ChatTemplate, **options: Any) -> Report | None:
    settings: dict[str, Any] = {"seq_len": SEQ_LEN, "supervise": Supervise(), "held_out": 0.0, "work": ONE}
    return prepare_conversations(data, directory, template, FormatConfig(), **settings | options)


def qa(name: str, n: int) -> list[dict[str, str]]:
    return [{"question": f"{name}{i}?", "answer": f"{name}{i}."} for i in range(n)]


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """Three data sets in files beside the registry, one with fields of its own names."""
    write_jsonl(tmp_path / "a.jsonl", qa("a", 40))
    write_jsonl(tmp_path / "b.jsonl", [{"ask": f"b{i}?", "say": f"b{i}.", "kind": "k"} for i in range(20)])
    write_jsonl(tmp_path / "c.jsonl", qa("c", 10))
    file = tmp_path / "datasets.yaml"
    file.write_text(
        "a:\n  path: a.jsonl\n  system: [One., Two., Three.]\n  task: first/a\n  licence: apache-2.0\n"
        "  source: https://example.org/a\n  weight: 2\n"
        "b:\n  path: [b.jsonl]\n  prompt: ask\n  format: {answer: say}\n"
        "c:\n  path: c.jsonl\n  task: third\n",
        encoding="utf-8",
    )
    return file


def texts(store: ConversationStore, template: ChatTemplate) -> list[str]:
    return [template.tokenizer.decode(store.conversation(n)[0].tolist()) for n in range(len(store.index))]


# ---- what the file says


def test_names_and_paths_can_be_mixed(registry: Path) -> None:
    """A name is looked up, a path that exists is read as it is, and both keep their order."""
    path = registry.parent / "c.jsonl"
    first, second, third = named_data(["b", str(path), "a"], str(registry))
    assert (first.name, second.name, third.name) == ("b", "", "a")
    assert first.paths == (registry.parent / "b.jsonl",) and second == DataSet((path,))
    assert first.format == {"prompt": "ask", "answer": "say"} and third.systems == ("One.", "Two.", "Three.")
    assert first.reading(FormatConfig(roles={"client": "user"})) == FormatConfig(
        prompt="ask", answer="say", roles={"client": "user"}
    )


MISTAKES = {
    "a:\n  path: a.jsonl\n  lmit: 3\n": r"datasets.yaml:3: unknown key 'lmit': did you mean 'limit'\?",
    "a:\n  path: a.jsonl\n  limit: many\n": "datasets.yaml:3: 'limit' expects int",
    "a: {path: a.jsonl, limit: 0}\n": "datasets.yaml: a: limit=0: must be at least 1",
    "a: {path: a.jsonl, share: 0}\n": "a: share=0.0: must be above 0",
    "a: {path: a.jsonl, weight: -1}\n": "a: weight=-1.0: must be above 0",
    "a: {path: none.jsonl}\n": "a: .*none.jsonl does not exist",
    "a: {task: t}\n": "a: path is missing",
    "a: {path: []}\n": "a: 'path' is empty",
    "a: a.jsonl\n": "datasets.yaml:1: 'a' has no settings below it",
    "a: {path: a.jsonl}\na: {path: b.jsonl}\n": "duplicate name 'a'",
    "- a\n": "holds no names",
    "": "holds no names",
    "a: {path: [}\n": "not valid YAML in line 1",
    "a: {path: a.jsonl, prompt: q, format: {prompt: p}}\n": "'prompt' and 'format.prompt' are given",
    "a: {path: a.jsonl, format: {allow_special: [x]}}\n": "is for all data of a run",
    "aa: {path: a.jsonl}\n": "data.path=a: is neither a file or folder nor a data set of .*did you mean 'aa'",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_in_a_registry_is_one_line(registry: Path, text: str) -> None:
    """The line names the file, and the line or the data set, and says what is wrong."""
    registry.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=MISTAKES[text]) as found:
        named_data(["a"], str(registry))
    assert "\n" not in str(found.value)


def test_contradictions_are_found_before_any_work(registry: Path, template: ChatTemplate) -> None:
    """Fields that cannot go together are one line with the name of the data set."""
    registry.write_text("a: {path: a.jsonl, messages: m, prompt: p}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"data set a: format.messages: names a list"):
        prepare(named_data(["a"], str(registry)), registry.parent / "out", template)
    with pytest.raises(UserError, match="the data set a is given twice"):
        named_data(["a", "a"], str(registry))


def test_the_usual_registry_is_read_only_for_names(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """data/datasets.yaml is looked into if there is one; a mistake in it does not matter to a run of paths."""
    monkeypatch.chdir(tmp_path)
    assert named_data(["a"], None) == [DataSet((Path("a"),))]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "datasets.yaml").write_text("mine: {path: ../a.jsonl}\n", encoding="utf-8")
    assert named_data(["mine"], None)[0].paths == (Path("data/../a.jsonl"),)
    (tmp_path / "data" / "datasets.yaml").write_text("mine: {pth: x}\n", encoding="utf-8")
    assert named_data(["a.jsonl"], None) == [DataSet((Path("a.jsonl"),))]


def test_the_example_is_valid() -> None:
    """Every entry of configs/datasets.yaml is read, and says where its records are from."""
    found = read_registry(ROOT / "configs" / "datasets.yaml")
    assert len(found) >= 8 and all(one.source for one in found.values())


# ---- what a store has of it


def test_each_data_set_is_read_in_its_way(registry: Path, tmp_path: Path, template: ChatTemplate) -> None:
    """Fields, task and system messages are those of the data set; a path is read as the run says."""
    data = [*named_data(["a", "b"], str(registry)), tmp_path / "c.jsonl"]
    report = prepare(data, tmp_path / "out", template)
    store = ConversationStore.open(tmp_path / "out")
    assert {group.task: group.conversations for group in store.groups("train")} == {"first/a": 40, "k": 20, "c": 10}
    systems = Counter(
        next((one for one in ("One.", "Two.", "Three.") if one in text), "") for text in texts(store, template)
    )
    assert systems[""] == 30 and sum(systems.values()) == 70 and min(systems.values()) > 4
    assert report is not None
    table = next(table for table in report.tables if table.title == "data sets")
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["records"] for row in rows] == [row["trained on"] for row in rows] == [40, 20, 10]
    assert rows[0]["licence"] == "apache-2.0" and rows[0]["weight"] == 2


def test_system_messages_depend_on_the_contents(tmp_path: Path, template: ChatTemplate) -> None:
    """A chat has the same one wherever it is; one of its own stays, and a new list changes no split."""
    own = {"system": "Mine.", "question": "q", "answer": "a"}
    files = [
        write_jsonl(tmp_path / "x.jsonl", [*qa("x", 30), own]),
        write_jsonl(tmp_path / "y.jsonl", qa("x", 30)[::-1]),
    ]
    found = []
    for number, file in enumerate(files):
        prepare([DataSet((file,), "s", systems=("One.", "Two."))], tmp_path / f"{number}", template)
        found.append(set(texts(ConversationStore.open(tmp_path / f"{number}"), template)))
    assert len(found[0]) == 31 and found[1] < found[0]
    (kept,) = found[0] - found[1]
    assert "Mine." in kept and "One." not in kept
    prepare([files[0]], tmp_path / "plain", template, held_out=0.4)
    prepare([DataSet((files[0],), "s", systems=("Three.",))], tmp_path / "other", template, held_out=0.4)
    sizes = [len(ConversationStore.open(tmp_path / name).span("val")) for name in ("plain", "other")]
    assert sizes[0] == sizes[1] > 0


@pytest.mark.parametrize("repetitions", ["drop", "keep"])
def test_a_limit_is_exact_stable_and_nested(tmp_path: Path, template: ChatTemplate, repetitions: Any) -> None:
    """As many different records as the limit are read; a smaller limit or share is a part of a larger one."""
    file = write_jsonl(tmp_path / "x.jsonl", qa("x", 60) + qa("x", 5))
    other = write_jsonl(tmp_path / "y.jsonl", qa("y", 40))
    found: dict[Any, set[str]] = {}
    for name in (7, 20, 100, 0.3, 0.6, "20, small pieces"):
        work = WorkConfig(1, 400) if isinstance(name, str) else ONE
        options = {"share": name} if isinstance(name, float) else {"limit": int(str(name).split(",")[0])}
        data = [DataSet((file,), "s", **options), other]
        out = tmp_path / f"out {name}"
        prepare(data, out, template, repetitions=repetitions, work=work)
        store = ConversationStore.open(out)
        assert len(store.span("train", "y")) == 40
        found[name] = {text for text in texts(store, template) if "x" in text}
        record = read_data_sets(out)[0]
        assert record.records == 65 == record.repeated + record.not_drawn + sum(record.train.values())
    assert [len(found[n]) for n in (7, 20, 100)] == [7, 20, 60]
    assert found[7] < found[20] < found[100] and found[0.3] < found[0.6] < found[100]
    assert found["20, small pieces"] == found[20]


def test_a_repetition_of_a_record_that_is_not_read_stays(tmp_path: Path, template: ChatTemplate) -> None:
    """A limit of one data set never removes the records of another one."""
    one, two = (write_jsonl(tmp_path / name, qa("x", 30)) for name in ("1.jsonl", "2.jsonl"))
    prepare([DataSet((one,), "s", limit=4), two], tmp_path / "out", template, repetitions="drop")
    assert len(ConversationStore.open(tmp_path / "out").index) == 30
    first, second = read_data_sets(tmp_path / "out")
    assert (sum(first.train.values()), first.not_drawn, second.repeated, sum(second.train.values())) == (4, 26, 4, 26)


def test_workers_change_nothing(registry: Path, tmp_path: Path, template: ChatTemplate) -> None:
    """Another number of processes makes the same store and the same record of its data sets."""
    for name, work in (("1", ONE), ("2", WorkConfig(2, 700))):
        prepare(named_data(["a", "b", "c"], str(registry)), tmp_path / name, template, work=work, held_out=5)
    names = ("ids.bin", "turns.bin", "index.bin", DATA_SETS)
    assert all((tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes() for name in names)


def test_what_people_may_change(registry: Path, tmp_path: Path, template: ChatTemplate) -> None:
    """A new licence or weight is recorded without making the store again; a new limit makes it again."""
    prepare(named_data(["a"], str(registry)), tmp_path / "out", template)
    text = registry.read_text(encoding="utf-8").replace("apache-2.0", "cc-by-4.0").replace("weight: 2", "weight: 3")
    registry.write_text(text, encoding="utf-8")
    assert prepare(named_data(["a"], str(registry)), tmp_path / "out", template) is None
    (record,) = read_data_sets(tmp_path / "out")
    assert (record.licence, record.weight, record.records) == ("cc-by-4.0", 3, 40)
    registry.write_text(text.replace("task: first/a", "limit: 5"), encoding="utf-8")
    assert prepare(named_data(["a"], str(registry)), tmp_path / "out", template) is not None


def test_preferences_have_data_sets_too(tmp_path: Path, template: ChatTemplate) -> None:
    """Pairs of a data set have its fields, its system message, its task and its limit."""
    pairs = [{"ask": f"q{i}", "good": "yes", "bad": "no"} for i in range(30)]
    file = write_jsonl(tmp_path / "pairs.jsonl", pairs)
    names = {"prompt": "ask", "chosen": "good", "rejected": "bad"}
    data = DataSet((file,), "pairs", names, ("Be short.",), "mine", limit=12)
    prepare_pairs([data], tmp_path / "out", template, PreferenceFormat(), seq_len=SEQ_LEN, held_out=0, work=ONE)
    (record,) = read_data_sets(tmp_path / "out")
    assert record.train == {"mine": 12} and record.not_drawn == 18 and record.records == 30
    ids = (tmp_path / "out" / "ids.bin").read_bytes()
    text = template.tokenizer.decode(torch.frombuffer(bytearray(ids), dtype=torch.int16).tolist())
    assert text.count("Be short.") == 24


# ---- weights


def opened(directory: Path, template: ChatTemplate, runtime: Runtime, **options: Any) -> tuple[Any, ConversationData]:
    config = ConversationConfig(seq_len=SEQ_LEN, global_batch=10, micro_batch=10, held_out=0.0, **options)
    return config, open_conversation_data(config, directory, template.tokenizer.sha256, "token", runtime)


@pytest.mark.parametrize("pack", [False, True])
def test_a_weight_is_how_often_a_chat_comes(
    registry: Path,
    tmp_path: Path,
    template: ChatTemplate,
    runtime: Runtime,
    tiny: Callable[..., ModelConfig],
    pack: bool,
) -> None:
    """In the time in which each chat of weight 1 comes once, each one of weight 2 comes twice."""
    prepare(named_data(["a", "c"], str(registry)), tmp_path / "out", template)
    config, data = opened(tmp_path / "out", template, runtime, pack=pack)
    sizes = {task: len(data.rows(SEQ_LEN, task)) for task in ("first/a", "third")}
    loader, _ = make_loader(config, data, tiny(max_seq_len=SEQ_LEN), runtime, Plan(steps=100))
    n_steps = 2 * (2 * sizes["first/a"] + sizes["third"])  # of 10 rows: 20 epochs of the chats of weight 1
    for _ in range(n_steps):
        next(loader)
    epochs = loader.metrics()
    assert epochs["epoch/first/a"] == pytest.approx(40, abs=1) and epochs["epoch/third"] == pytest.approx(20, abs=1)
    loader.close()


def test_weights_that_cannot_be_kept_are_refused(
    registry: Path, tmp_path: Path, template: ChatTemplate, runtime: Runtime, tiny: Callable[..., ModelConfig]
) -> None:
    """A task that two weights share, or a mixture that says something else, is one line."""
    prepare(named_data(["a", "c"], str(registry)), tmp_path / "out", template)
    config, data = opened(tmp_path / "out", template, runtime, mix={"third": 1.0})
    with pytest.raises(UserError, match="leave out one of them"):
        make_loader(config, data, tiny(max_seq_len=SEQ_LEN), runtime, Plan(steps=4))
    registry.write_text(registry.read_text(encoding="utf-8").replace("task: third", "task: first/a"), encoding="utf-8")
    prepare(named_data(["a", "c"], str(registry)), tmp_path / "out", template)
    config, data = opened(tmp_path / "out", template, runtime)
    with pytest.raises(UserError, match=r"data sets a \(weight 2\) and c \(weight 1\): both have .* 'first/a'"):
        make_loader(config, data, tiny(max_seq_len=SEQ_LEN), runtime, Plan(steps=4))


# ---- a run


def test_a_run_names_data_sets_and_records_them(
    registry: Path, tmp_path: Path, tokenizer: Tokenizer, tiny: Callable[..., ModelConfig], runtime: Runtime
) -> None:
    """`--data.path=[a, c]` is enough; the run directory says what was read, and a card lists it with its licences."""
    base, run_dir, model = tmp_path / "base", tmp_path / "run", Transformer(tiny(max_seq_len=SEQ_LEN))
    base.mkdir()
    save_model(base, model, tokenizer)
    flags = [f"--init_from={base}", f"--run_dir={run_dir}", f"--data.seq_len={SEQ_LEN}", "--plan.steps=2"]
    flags += ["--data.path=[a, c]", f"--data.registry={registry}", "--data.work.workers=1"]
    new_run(parse(FineTuneConfig, flags, prog="sft"), runtime).state.stream.close()  # type: ignore[attr-defined]
    found = {record.name: record for record in read_data_sets(run_dir / "conversations")}
    assert found["a"].licence == "apache-2.0" and found["a"].systems == ["One.", "Two.", "Three."]
    assert sum(found["c"].train.values()) + sum(found["c"].val.values()) == 10
    (run_dir / "config.yaml").write_text(json.dumps({"data": {}}), encoding="utf-8")
    shutil.copytree(base, run_dir / "step_00000002")
    write_card(base, run_dir / "step_00000002")
    card = (base / "README.md").read_text(encoding="utf-8")
    assert "| a | 40 |" in card and "apache-2.0 | https://example.org/a |" in card and "not stated" in card
