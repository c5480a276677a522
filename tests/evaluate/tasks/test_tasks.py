"""Tasks from files: what models read, what counts as right, the same numbers for any batch size and number of ranks."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_fixtures import write_tasks
from training_fixtures import Worker

from babyllm.chat.load import ChatTemplate
from babyllm.errors import UserError
from babyllm.evaluate.scoring import Row, row_nats
from babyllm.evaluate.tasks.evaluation import Evaluated, Evaluator, evaluate_task, find_items
from babyllm.evaluate.tasks.items import TaskItems
from babyllm.evaluate.tasks.prompts import Prompter
from babyllm.evaluate.tasks.responses import weights_hash
from babyllm.evaluate.tasks.task_options import TaskOptions
from babyllm.interop.huggingface import save_model
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory, model: Transformer, tokenizer: Tokenizer) -> Path:
    directory = tmp_path_factory.mktemp("model") / "model"
    directory.mkdir()
    save_model(directory, model, tokenizer)
    return directory


@pytest.fixture
def evaluator(model: Transformer, tokenizer: Tokenizer, runtime: Runtime) -> Evaluator:
    return Evaluator(model, tokenizer, None, runtime)


def letters(folder: Path, **options: object) -> tuple[TaskItems, TaskOptions]:
    settings = replace(TaskOptions(), **options)
    return find_items(str(folder / "letters.yaml"), settings), settings


def texts_of(tokenizer: Tokenizer, ids: Sequence[Sequence[int]]) -> list[str]:
    return [tokenizer.decode(list(each)) for each in ids]


# ---- what is read


def test_a_prompt_is_description_examples_and_question(folder: Path, tokenizer: Tokenizer) -> None:
    """The form with letters lists the options and scores the letters, in any order; the other scores the options."""
    found, _ = letters(folder)
    item, (first, second) = found.items[0], found.examples_for(found.items[0])
    rotations = list(Prompter(found, tokenizer, 4096).questions(item, permute=True))
    *asked, text, bare = rotations
    assert [question.key.partition("|")[2] for question in rotations] == [
        *("letter|0", "letter|1", "letter|2", "text", "bare")
    ]

    def shown(each: object, shift: int = 0) -> str:
        options = [*each.options[shift:], *each.options[:shift]]  # type: ignore[attr-defined]
        lines = [f"{letter}. {option}" for letter, option in zip("ABC", options, strict=True)]
        return "\n".join([each.question, *lines, "答案："])  # type: ignore[attr-defined]

    before = "".join(f"{shown(each)}{'ABC'[each.answer]}\n\n" for each in (first, second))
    for shift, question in enumerate(asked):
        assert texts_of(tokenizer, question.contexts) == [f"考试。\n\n{before}{shown(item, shift)}"] * 3
        assert texts_of(tokenizer, question.options) == ["A", "B", "C"]
    before = "".join(f"{each.question}\n答案：{each.options[each.answer]}\n\n" for each in (first, second))
    assert texts_of(tokenizer, text.contexts)[0] == f"考试。\n\n{before}{item.question}\n答案："
    assert texts_of(tokenizer, text.options) == texts_of(tokenizer, bare.options) == list(item.options)
    assert bare.contexts == ((tokenizer.begin_id,),) * 3
    others = [next(Prompter(found, tokenizer, 4096).questions(each)) for each in found.items[:3]]
    assert len({question.contexts[0][: question.n_shared] for question in others}) == 1 and others[0].n_shared > 50


def test_examples_are_left_out_until_the_prompt_fits(folder: Path, tokenizer: Tokenizer) -> None:
    """A question that is too long alone loses its beginning; an option that is too long alone is refused."""
    found, _ = letters(folder)
    item = found.items[0]
    whole = [next(Prompter(found, tokenizer, 4096).questions(item))]
    n_whole = len(whole[0].contexts[0])
    fewer = next(Prompter(found, tokenizer, n_whole - 1).questions(item))
    assert fewer.n_examples == 1 and fewer.n_cut == 0 and whole[0].n_examples == 2
    cut = next(Prompter(found, tokenizer, 10).questions(item))
    assert cut.n_examples == 0 and cut.n_cut > 0 and len(cut.contexts[0]) == 10
    assert cut.contexts[0] == whole[0].contexts[0][-10:]
    with pytest.raises(UserError, match=r"test/art.csv:2: an answer has more tokens than the 2"):
        list(Prompter(found, tokenizer, 2).questions(item))


def test_the_chat_form_asks_through_the_template(folder: Path, template: ChatTemplate, tokenizer: Tokenizer) -> None:
    """Examples become exchanges, and the answer is scored after the template's beginning of an answer."""
    found, _ = letters(folder)
    question = next(Prompter(found, tokenizer, 4096, template).questions(found.items[0]))
    text = tokenizer.decode(list(question.contexts[0]))
    assert text.count("user\n") == 3 and text.count("assistant\n") == 3 and text.endswith("assistant\n")
    assert text.startswith("user\n考试。\n\n") and question.contexts[0].count(tokenizer.special["<|im_start|>"]) == 6
    assert texts_of(tokenizer, question.options) == ["A", "B", "C"] and question.n_shared > 50


# ---- what is computed


@pytest.mark.parametrize("chat", [False, True])
def test_nats_are_those_of_whole_rows(
    folder: Path, model: Transformer, tokenizer: Tokenizer, template: ChatTemplate, runtime: Runtime, chat: bool
) -> None:
    """With a shared beginning or without, an option's nats are those of one row of context and option."""
    settings = TaskOptions(shots=1, limit=6, permute=True)
    found = find_items(str(folder / "letters.yaml"), settings)
    model = longer(model)
    used = template if chat else None
    evaluated = evaluate_task(Evaluator(model, tokenizer, used, runtime), found, settings)
    prompter = Prompter(found, tokenizer, model.config.max_seq_len, used)
    n_shared = 0
    for scored in evaluated.scored:
        for question in prompter.questions(scored.item, permute=True):
            n_shared += question.n_shared > 0
            rows = [
                Row(np.array([*context, *option]), np.arange(len(context) + len(option)) >= len(context))
                for context, option in zip(question.contexts, question.options, strict=True)
            ]
            form = question.key.removeprefix(f"{scored.item.id}|")
            assert scored.nats[form] == pytest.approx(row_nats(model, rows).tolist(), abs=2e-4)
    assert n_shared == 6 * 4


def longer(model: Transformer) -> Transformer:
    """The same weights with a longer context."""
    other = Transformer(replace(model.config, max_seq_len=512))
    other.load_state_dict(model.state_dict())
    return other.eval()


def test_scores_follow_from_nats(folder: Path, evaluator: Evaluator) -> None:
    """Each metric's answer has the least nats, divided by its length or less the nats without the question."""
    settings = TaskOptions(limit=9, permute=True)
    found = find_items(str(folder / "letters.yaml"), settings)
    evaluated = evaluate_task(evaluator, found, settings)
    assert {item.group for item in found.items} == {"law", "art", "physics"} and len(found.items) == 9
    for scored in evaluated.scored:
        item, nats = scored.item, {form: np.array(values) for form, values in scored.nats.items()}
        sizes = {"acc_norm": [len(o) for o in item.options], "acc_bytes": [len(o.encode()) for o in item.options]}
        losses = {"acc": nats["text"], "acc_pmi": nats["text"] - nats["bare"]}
        losses |= {name: nats["text"] / size for name, size in sizes.items()}
        for name, values in losses.items():
            best = np.flatnonzero(values == values.min())
            assert scored.scores[name] == (item.answer in best) / len(best)
        right = [int(np.argmin(nats[f"letter|{shift}"])) == (item.answer - shift) % 3 for shift in range(3)]
        assert scored.scores["acc_letter"] == pytest.approx(np.mean(right))
    assert [result.metric for result in evaluated.results] == ["acc_letter", "acc", "acc_norm", "acc_bytes", "acc_pmi"]
    assert all(r.chance == pytest.approx(1 / 3) and r.estimate.n_clusters == 3 for r in evaluated.results)


def test_pairs_are_scored_by_sum_mean_and_power(folder: Path, evaluator: Evaluator, tokenizer: Tokenizer) -> None:
    """A pair's sentences begin after the token that begins texts, and are compared by three measures of length."""
    settings = TaskOptions()
    found = find_items(str(folder / "pairs.yaml"), settings)
    evaluated = evaluate_task(evaluator, found, settings)
    for scored in evaluated.scored:
        n = np.array([len(tokenizer.encode(text)) for text in scored.item.options])
        nats = np.array(scored.nats["text"])
        rows = [np.array([tokenizer.begin_id, *tokenizer.encode(text)]) for text in scored.item.options]
        expected = row_nats(evaluator.model, [Row(row, np.arange(len(row)) > 0) for row in rows])
        assert nats == pytest.approx(expected, abs=1e-4)
        for name, values in (("acc", nats), ("acc_mean", nats / n), ("acc_slln", nats / np.sqrt(n))):
            assert scored.scores[name] in (float(values[0] < values[1]), 0.5)
    assert list(evaluated.scored[0].scores) == ["acc", "acc_mean", "acc_slln"]
    assert all(result.estimate.n_clusters == 4 for result in evaluated.results)


def test_batch_size_and_ranks_change_no_digit(folder: Path, model_dir: Path, worker: Worker, tmp_path: Path) -> None:
    """Batch sizes 1, 7 and 64, on one process and on two, give the same numbers to the last bit."""
    tasks = [str(folder / "letters.yaml"), str(folder / "pairs.yaml")]
    found = set()
    for ranks, size in ((1, 1), (1, 7), (1, 64), (2, 7)):
        out = str(tmp_path / f"{ranks}-{size}-")
        worker.run("task_values", ranks=ranks, model_dir=str(model_dir), tasks=tasks, out=out, batch_size=size)
        found |= {Path(f"{out}{rank}").read_text(encoding="utf-8") for rank in range(ranks)}
    assert len(found) == 1 and len(json.loads(found.pop())) == 18 + 24


@pytest.fixture(scope="module")
def worker(worker: Worker) -> Worker:
    worker.load("evaluation_fixtures")
    return worker


# ---- what is stored


def stored_lines(cache: Path) -> list[str]:
    return [line for file in sorted(cache.glob("*.jsonl")) for line in file.read_text().splitlines()[1:]]


def evaluated_with(evaluator: Evaluator, folder: Path, cache: Path, **options: object) -> Evaluated:
    found, settings = letters(folder, batch_size=4, **options)
    kept = evaluator._replace(cache=cache, weights_sha256=weights_hash(evaluator.model))
    return evaluate_task(kept, found, settings)


def test_an_interrupted_evaluation_goes_on(
    folder: Path, model: Transformer, evaluator: Evaluator, runtime: Runtime, tmp_path: Path
) -> None:
    """After a stop signal, and a kill within a line, the rest is computed; the results are those of one run."""

    class Stopping(Runtime):
        """A process that is stopped after a few units of work."""

        n_asked = 0

        @property
        def stop_requested(self) -> bool:
            Stopping.n_asked += 1
            return Stopping.n_asked > 30

    whole = evaluated_with(evaluator, folder, tmp_path / "whole")
    stopping = Stopping(**vars(runtime))
    with pytest.raises(KeyboardInterrupt):
        evaluated_with(evaluator._replace(runtime=stopping), folder, tmp_path / "parts")
    n_stored = len(stored_lines(tmp_path / "parts"))
    assert 0 < n_stored < len(stored_lines(tmp_path / "whole"))
    (file,) = (tmp_path / "parts").glob("*.jsonl")
    file.write_bytes(file.read_bytes()[:-7])
    again = evaluated_with(evaluator, folder, tmp_path / "parts")
    assert [s[1:] for s in again.scored] == [s[1:] for s in whole.scored]
    assert sorted(map(json.loads, stored_lines(tmp_path / "parts"))) == sorted(
        map(json.loads, stored_lines(tmp_path / "whole"))
    )
    Stopping.n_asked = 31  # nothing is left to compute, so that a stop has nothing to cut short
    assert evaluated_with(evaluator._replace(runtime=stopping), folder, tmp_path / "parts").results == whole.results
    with torch.no_grad():
        model.norm.weight[0] += 1
    try:
        assert len(list((tmp_path / "parts").glob("*.jsonl"))) == 1
        evaluated_with(evaluator, folder, tmp_path / "parts")
        assert len(list((tmp_path / "parts").glob("*.jsonl"))) == 2, "other weights have other responses"
    finally:
        with torch.no_grad():
            model.norm.weight[0] -= 1
