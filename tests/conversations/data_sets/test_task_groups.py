"""Two levels of tasks: losses and accuracies summed up a level, in training, evaluation and mixtures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conversations_fixtures import ONE, write_jsonl

from babyllm.chat.formats import FormatConfig
from babyllm.chat.load import ChatTemplate, Supervise
from babyllm.chat.messages import Conversation, Message
from babyllm.config import parse
from babyllm.data.conversation_config import ConversationConfig
from babyllm.data.conversation_data import make_loader, open_conversation_data
from babyllm.data.order.task_weights import without_groups
from babyllm.data.row_config import RowConfig
from babyllm.errors import UserError
from babyllm.evaluate.conversations.answers import closed_turns
from babyllm.evaluate.conversations.by_task import TaskResult, measure
from babyllm.evaluate.conversations.carry_over import mean_score
from babyllm.evaluate.conversations.samples import Sample, samples_of
from babyllm.evaluate.report import conversation_evaluation
from babyllm.interop.huggingface import save_model
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.objectives.conversation import conversation_loss
from babyllm.prepare.conversations import prepare_conversations
from babyllm.runtime import Runtime
from babyllm.schedule import Plan
from babyllm.store.task_groups import groups_of, parts_of_results
from babyllm.tokenizer import Tokenizer
from babyllm.training.best import require_known
from babyllm.training.stages.fine_tuning import begin
from babyllm.training.stages.fine_tuning_config import FineTuneConfig

SEQ_LEN = 64
SIZES = {"reasoning/maths": 30, "reasoning/common sense": 24, "reasoning": 6, "chat": 20}


def record(task: str, i: int) -> dict[str, Any]:
    answer = "yes" if i % 2 else "no" if task.startswith("reasoning/") else f"{task} {i}"
    return {"prompt": f"{task} {i}", "answer": answer, "task": task}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations of a task of one level, of a group with two tasks, and of a task named like the group."""
    records = [record(task, i) for task, n in SIZES.items() for i in range(n)]
    return write_jsonl(tmp_path_factory.mktemp("groups") / "chats.jsonl", records)


@pytest.fixture(scope="module")
def samples(template: ChatTemplate) -> list[Sample]:
    said = [record(task, i) for task, n in SIZES.items() for i in range(n)]
    talks = [
        Conversation((Message("user", one["prompt"]), Message("assistant", one["answer"])), task=one["task"])
        for one in said
    ]
    return samples_of(template, talks, SEQ_LEN)


@pytest.fixture(scope="module")
def model(tiny: Callable[..., ModelConfig]) -> Transformer:
    torch.manual_seed(2)
    return Transformer(tiny())


def opened(file: Path, directory: Path, template: ChatTemplate, runtime: Runtime, **options: Any) -> Any:
    """The section `data` and the prepared conversations."""
    prepare_conversations(
        [file], directory, template, FormatConfig(), seq_len=SEQ_LEN, supervise=Supervise(), held_out=0, work=ONE
    )
    config = ConversationConfig(seq_len=SEQ_LEN, global_batch=8, micro_batch=8, **options)
    return config, open_conversation_data(config, directory, template.tokenizer.sha256, "token", runtime)


def test_a_group_is_what_is_before_the_first_slash() -> None:
    """There are two levels; a task named like a group belongs to it, and has its own results under another name."""
    tasks = ["a/x", "a/y/z", "a", "b", "/c", "d/"]
    assert groups_of(tasks) == {"a": ["a", "a/x", "a/y/z"]}
    assert list(parts_of_results(tasks)) == ["/c", "a/(rest)", "a/x", "a/y/z", "b", "d/", "a"]
    assert parts_of_results(["a", "b"]) == {"a": ["a"], "b": ["b"]}


def test_a_group_has_the_mean_over_its_tokens(samples: list[Sample], model: Transformer, runtime: Runtime) -> None:
    """The loss of a group is its nats over its tokens, and its accuracy is over its answers, as for all tasks."""
    candidates = closed_turns(samples)
    assert set(candidates) == {"reasoning/maths", "reasoning/common sense"}
    found = measure(model, samples, candidates, runtime)
    names = ["chat", "reasoning/(rest)", "reasoning/common sense", "reasoning/maths", "reasoning", "all"]
    assert list(found) == names
    tokens = {task: sum(int((s.turns[1:] > 0).sum()) for s in samples if s.task == task) for task in SIZES}
    own = {task: found["reasoning/(rest)" if task == "reasoning" else task] for task in SIZES}
    mine = [task for task in SIZES if task.startswith("reasoning")]
    expected = sum(own[t].loss * tokens[t] for t in mine) / sum(tokens[t] for t in mine)
    assert found["reasoning"].loss == pytest.approx(expected, rel=1e-9) and found["reasoning"].n == 60
    assert found["reasoning"].accuracy is None  # one of its tasks has open answers
    closed = measure(model, [s for s in samples if "/" in s.task], candidates, runtime)
    two = [closed[task] for task in candidates]
    right = sum((one.accuracy or 0) * (one.n_answers or 0) for one in two)
    assert closed["reasoning"].accuracy == pytest.approx(right / 54) and closed["reasoning"].n_answers == 54
    assert closed["reasoning"] == closed["all"]


def test_reports_do_not_count_twice() -> None:
    """A group is a row of the table, but no task of its own in means over tasks."""
    results = {
        "a/x": TaskResult(10, 1.0, exact=1.0),
        "a/(rest)": TaskResult(10, 1.0, exact=0.0),
        "b": TaskResult(20, 1.0, exact=0.0),
        "a": TaskResult(20, 1.0, exact=0.5),
        "all": TaskResult(40, 1.0, exact=0.25),
    }
    assert mean_score(results) == 0.25
    (table,) = conversation_evaluation(results, {"a": 0.7, "a/x": 0.6}, []).report.tables
    assert [row[-1] for row in table.rows] == [0.6, 0.7, None, None, None]


def test_training_losses_are_summed_up(
    file: Path, tmp_path: Path, template: ChatTemplate, model: Transformer, runtime: Runtime
) -> None:
    """The training loss of a group is the sum of its tasks' nats over the sum of their tokens; others stay."""
    config, data = opened(file, tmp_path, template, runtime)
    loader, _ = make_loader(config, data, model.config, runtime, Plan(steps=3))
    (batch,) = next(loader)
    metrics = conversation_loss("token", data.tasks)(model, batch).metrics
    loader.close()
    parts = ["loss/reasoning/(rest)", "loss/reasoning/common sense", "loss/reasoning/maths"]
    for i in (0, 1):
        torch.testing.assert_close(metrics["loss/reasoning"][i], sum(metrics[name][i] for name in parts))
    both = metrics["loss/reasoning"][1] + metrics["loss/chat"][1]
    assert float(both) == batch.units["token"]


def test_a_mixture_may_name_a_group(
    file: Path, tmp_path: Path, template: ChatTemplate, runtime: Runtime, model: Transformer
) -> None:
    """Its weight is divided among its tasks by their rows: each of them has come equally often."""
    config, data = opened(file, tmp_path, template, runtime, mix={"reasoning": 0.75, "chat": 0.25})
    loader, _ = make_loader(config, data, model.config, runtime, Plan(steps=60))
    for _ in range(60):
        next(loader)
    epochs = loader.metrics()
    loader.close()
    for task in ("reasoning/maths", "reasoning/common sense", "reasoning"):
        assert epochs[f"epoch/{task}"] == pytest.approx(360 / 60, abs=0.2)
    assert epochs["epoch/chat"] == pytest.approx(120 / 20, abs=0.1)


def test_groups_in_stages_and_mistakes_in_mixtures() -> None:
    """Phases may name groups; a group beside its task is refused; mixtures without groups stay as they are."""
    amounts = {"a/x": 30, "a/y": 10, "b": 7}
    config = RowConfig(stages=[{"until": 0.5, "mix": {"a": 0.4, "b": 0.3}}, {"until": 1.0, "mix": {"b": 0.1}}])
    found = without_groups(config, amounts).stages
    assert found == [
        {"until": 0.5, "mix": {"a/x": pytest.approx(0.3), "a/y": pytest.approx(0.1), "b": 0.3}},
        {"until": 1.0, "mix": {"b": 0.1}},
    ]
    mix = {"a/x": 0.1, "b": 0.7, "unknown": 0.3}
    assert without_groups(RowConfig(mix=mix), amounts).mix == mix
    with pytest.raises(UserError, match=r"data.mix: names the task 'a/y' and its group 'a'"):
        without_groups(RowConfig(mix={"a": 1, "a/y": 2}), amounts)


@pytest.mark.parametrize("task", ["all", "all/x"])
def test_no_group_has_the_name_of_the_total(
    task: str, tmp_path: Path, template: ChatTemplate, runtime: Runtime, model: Transformer
) -> None:
    """A task or a group named "all" is refused, by training and by evaluation."""
    file = write_jsonl(tmp_path / "chats.jsonl", [record(task, i) for i in range(4)])
    with pytest.raises(UserError, match="is named 'all', like their total"):
        opened(file, tmp_path / "out", template, runtime)
    talk = Conversation((Message("user", "a"), Message("assistant", "b")), task=task)
    with pytest.raises(UserError, match="has the name 'all', as the total has"):
        measure(model, samples_of(template, [talk], SEQ_LEN), {}, runtime)


def test_a_run_is_judged_by_a_group(
    file: Path, tmp_path: Path, tokenizer: Tokenizer, model: Transformer, runtime: Runtime
) -> None:
    """The results of a run have the losses of groups, and `best` may name one."""
    (tmp_path / "base").mkdir()
    save_model(tmp_path / "base", model, tokenizer)
    flags = [f"--init_from={tmp_path / 'base'}", f"--run_dir={tmp_path / 'run'}", f"--data.path={file}"]
    flags += [f"--data.seq_len={SEQ_LEN}", "--data.held_out=0.3", "--data.work.workers=1", "--plan.steps=2"]
    beginning = begin(parse(FineTuneConfig, flags, prog="sft"), runtime)
    require_known("reasoning/loss", beginning.results)
    found = beginning.measure(beginning.state)
    assert set(found) <= set(beginning.results)
    assert {"reasoning/loss", "reasoning/maths/loss", "reasoning/maths/accuracy", "all/loss"} <= set(found)
    beginning.state.stream.close()  # type: ignore[attr-defined]
