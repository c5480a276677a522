"""A head for parts of speech, which trains with a model and is not part of it when it is saved."""

import os
import random
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch.nn import functional as F
from training_fixtures import FLAGS, Kill, Worker, tiny_config

from babyllm.data.difficulty.parts_of_speech import load_tagger
from babyllm.data.difficulty.token_places import NAMES, NO_CLASS, token_classes
from babyllm.data.order.tagged_targets import TaggedTargets
from babyllm.data.rows.arrays import RowArrays
from babyllm.data.token_data import open_pretraining_data
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.integrity import AUXILIARY
from babyllm.interop.huggingface import load_model
from babyllm.model.cross_entropy import IGNORE
from babyllm.model.heads import WithAuxiliary
from babyllm.prepare.encode import write_tokens
from babyllm.publishing.model_files import model_files
from babyllm.run_directory import step_directories
from babyllm.runtime import Runtime
from babyllm.tokenizer import Tokenizer
from babyllm.training.recording.records import read_metrics
from babyllm.training.stage import Beginning, train_stage
from babyllm.training.stages.pos_head import FILE
from babyllm.training.stages.pretraining import begin
from babyllm.training.stages.pretraining_config import AuxiliaryConfig, PretrainConfig
from babyllm.training.state import Every, TrainState

pytest.importorskip("jieba")
STEPS, SAVED = 8, 4
WORDS = ("老师", "学校", "学习", "讨论", "我们", "他们", "的", "吗")


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token data whose words have several parts of speech, and bytes that have none."""
    rng = random.Random(0)
    texts = [" ".join([*rng.choices(WORDS, k=rng.randint(3, 12)), "ü"]) for _ in range(120)]
    tokenizer = Tokenizer.train([text[:-1] for text in texts], 330, n_threads=1, hard_vocab_limit=False)
    directory = tmp_path_factory.mktemp("tagged")
    write_tokens([Document(text, "a") for text in texts], tokenizer, directory, held_out=0.1)
    return directory


def a_run(data: Path, run_dir: Path, weight: float = 0.5, **changes: Any) -> PretrainConfig:
    config = replace(tiny_config(data, dropout=0.1, steps=STEPS), run_dir=str(run_dir), prompts=[], keep=9)
    return replace(config, aux=AuxiliaryConfig(weight), log_every=1, save_every=SAVED, eval_every=SAVED, **changes)


def interrupted(config: PretrainConfig, act: Callable[[], object], at: int) -> None:
    """Train until an act after some step, before it is saved."""

    def now(state: TrainState) -> None:
        if state.step == at:
            act()

    def begun(config: PretrainConfig, runtime: Runtime) -> Beginning:
        return replace(begin(config, runtime), renewals=[Every(1, now, at_end=False)])

    train_stage(config, begun)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def kill() -> None:
    raise Kill


def files_of(run_dir: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in step_directories(run_dir)[STEPS].iterdir()}


def losses_of(run_dir: Path, name: str = "loss") -> list[float]:
    return [record[name] for record in read_metrics(run_dir) if name in record]


@pytest.fixture(scope="module")
def straight(tagged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the head from its first step to its last; not to be changed."""
    run_dir = tmp_path_factory.mktemp("straight")
    train_stage(a_run(tagged, run_dir), begin)
    return run_dir


@pytest.fixture(scope="module")
def plain(tagged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run without the head; not to be changed."""
    run_dir = tmp_path_factory.mktemp("plain")
    train_stage(replace(a_run(tagged, run_dir), aux=PretrainConfig().aux), begin)
    return run_dir


def test_each_token_has_the_class_of_its_text(tagged: Path) -> None:
    """Words have their part of speech; special tokens and single bytes have none."""
    tokenizer = open_pretraining_data(tiny_config(tagged).data).tokenizer
    assert tokenizer is not None
    classes = token_classes(tokenizer, tokenizer.vocab_size + 3, "flag")
    assert ((classes == NO_CLASS) == (np.pad(tokenizer.byte_lengths(), (0, 3)) <= 1)).all()
    names = {tokenizer.decode([i]).strip(): NAMES[k] for i, k in enumerate(classes.tolist()) if 0 <= k < len(NAMES)}
    expected = {"老师": "noun", "学习": "verb", "我们": "pronoun", "的": "particle"}
    assert {word: names[word] for word in expected} == expected


def test_the_loss_is_that_of_tokens_and_of_classes(tagged: Path, runtime: Runtime, tmp_path: Path) -> None:
    """Its sums are the nats of all targets, and the weighted cross-entropy of those with a class; both heads learn."""
    config = replace(a_run(tagged, tmp_path), model=replace(tiny_config(tagged).model, dropout=0.0))
    stage = begin(config, runtime)
    model, batch = stage.state.model, next(stage.state.stream)[0]
    assert isinstance(model, WithAuxiliary)
    sums, metrics = stage.loss(model, batch)
    classes = torch.from_numpy(np.load(tmp_path / FILE))
    hidden, targets = model.model.hidden(batch["tokens"]), batch["targets"]
    kept = targets != IGNORE
    nats = F.cross_entropy(hidden[kept] @ model.model.lm_head.weight.T, targets[kept], reduction="sum")
    of_kept = classes[targets[kept]]
    has_class = of_kept >= 0
    scores = hidden[kept][has_class] @ model.score.weight.T
    of_classes = F.cross_entropy(scores, of_kept[has_class], reduction="sum")
    assert 0 < batch.units["tagged"] == int(has_class.sum()) < batch.units["token"] == int(kept.sum())
    torch.testing.assert_close(sums, {"token": nats, "tagged": 0.5 * of_classes})
    total, n = metrics["loss/pos"]
    torch.testing.assert_close(total / n, of_classes.detach() / has_class.sum())
    assert metrics["accuracy/pos"][0] == (scores.argmax(1) == of_kept[has_class]).sum()
    sums["tagged"].backward()
    trained = dict(model.named_parameters())
    assert all(p.grad is not None and p.grad.any() for name, p in trained.items() if "lm_head" not in name)


def test_it_learns_the_parts_of_speech(straight: Path) -> None:
    """The loss of the head falls, and its records are beside those of the model."""
    of_classes, accuracies = losses_of(straight, "loss/pos"), losses_of(straight, "accuracy/pos")
    assert len(of_classes) == STEPS and of_classes[-1] < of_classes[0] - 0.1
    assert all(0 <= accuracy <= 1 for accuracy in accuracies)


def test_ranks_and_micro_batches_have_the_same_losses(worker: Worker, tagged: Path, tmp_path: Path) -> None:
    """On one and two ranks, in one, two and eight micro-batches, all losses agree within 1e-4."""
    seen: list[list[float]] = []
    for ranks, micro_batch in ((1, 8), (1, 1), (2, 2)):
        run_dir = tmp_path / f"{ranks}-{micro_batch}"
        flags = [*FLAGS, f"--data.path={tagged}", f"--run_dir={run_dir}", f"--data.micro_batch={micro_batch}"]
        flags += ["--aux.pos_weight=0.5", "--plan.steps=6", "--model.dropout=0", "--runtime.processes=1"]
        worker.run("script", ranks=ranks, arguments=flags)
        seen.append([*losses_of(run_dir), *losses_of(run_dir, "loss/pos"), *losses_of(run_dir, "grad_norm")])
    assert len(seen[0]) == 18
    for other in seen[1:]:
        assert other == pytest.approx(seen[0], abs=1e-4)


@pytest.mark.parametrize(("act", "at"), [(stop, 6), (kill, 7)])
def test_a_resumed_run_equals_a_straight_one(
    tagged: Path, straight: Path, tmp_path: Path, act: Callable[[], object], at: int
) -> None:
    """After a stop or a kill all files of the last step are the same to the bit, and so are the losses."""
    config = a_run(tagged, tmp_path / "run")
    with suppress(Kill):
        interrupted(config, act, at)
    train_stage(config, begin)
    mine, theirs = files_of(tmp_path / "run"), files_of(straight)
    assert {name for name in theirs if mine.get(name) != theirs[name]} == set() and mine.keys() == theirs.keys()
    assert losses_of(tmp_path / "run", "loss/pos") == losses_of(straight, "loss/pos")


def test_a_moving_average_resumes_with_the_head(tagged: Path, tmp_path: Path) -> None:
    """Beside an average of the weights, head and model resume to the bit too."""
    for name in ("one", "two"):
        config = a_run(tagged, tmp_path / name)
        config = replace(config, optim=replace(config.optim, average=0.9))
        if name == "two":
            interrupted(config, stop, 5)
        train_stage(config, begin)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_the_saved_model_has_no_head(straight: Path, plain: Path) -> None:
    """Its config.json and tensors are those of a plain model; the head is in a file that is not published."""
    from transformers import AutoModelForCausalLM

    mine, theirs = (step_directories(run)[STEPS] for run in (straight, plain))
    assert (mine / "config.json").read_bytes() == (theirs / "config.json").read_bytes()
    shapes = [{n: x.shape for n, x in load_file(step / "model.safetensors").items()} for step in (mine, theirs)]
    assert shapes[0] == shapes[1]
    assert load_file(mine / AUXILIARY)["score.weight"].shape == (len(NAMES) + 1, 32)
    assert not (theirs / AUXILIARY).exists() and model_files(mine) == model_files(theirs)
    model, report = AutoModelForCausalLM.from_pretrained(mine, output_loading_info=True)
    assert not any(report.values())
    tokens = torch.arange(20, 30).view(1, -1)
    with torch.no_grad():
        torch.testing.assert_close(load_model(mine).eval().logits(tokens), model(tokens).logits, rtol=0, atol=1e-5)


def test_a_run_without_weight_is_the_plain_run(tagged: Path, straight: Path, plain: Path, tmp_path: Path) -> None:
    """With weight 0 no class is computed and all files are those of a plain run; the head changes no first loss."""
    train_stage(a_run(tagged, tmp_path / "run", weight=0.0), begin)
    assert files_of(tmp_path / "run") == files_of(plain) and not (plain / FILE).exists()
    first = {run: losses_of(run)[0] for run in (straight, plain)}
    assert first[straight] == first[plain] and losses_of(straight)[1] != losses_of(plain)[1]


def test_the_head_may_be_left_off_later_and_not_begun_later(
    tagged: Path, straight: Path, plain: Path, tmp_path: Path
) -> None:
    """A run with the head goes on without it; a run without it refuses to begin one."""
    interrupted(a_run(tagged, tmp_path / "run"), stop, SAVED)
    train_stage(a_run(tagged, tmp_path / "run", weight=0.0), begin)
    assert losses_of(tmp_path / "run", "loss/pos") == losses_of(straight, "loss/pos")[:SAVED]
    assert AUXILIARY not in files_of(tmp_path / "run") and AUXILIARY in files_of(straight)
    with pytest.raises(UserError, match=r"aux\.pos_weight=0\.5: .* was saved without the head; set it to 0"):
        train_stage(a_run(tagged, plain), begin)


def test_another_run_starts_from_the_model_alone(tagged: Path, straight: Path, tmp_path: Path) -> None:
    """A run that begins with the weights of one with a head has none, or a new one that its seed alone decides."""
    for i, (name, weight) in enumerate((("without", 0.0), ("one", 0.5), ("two", 0.5))):
        torch.manual_seed(i)
        config = a_run(tagged, tmp_path / name, weight, init_from=str(straight))
        train_stage(replace(config, plan=replace(config.plan, steps=1)), begin)
        assert (step_directories(tmp_path / name)[1] / AUXILIARY).exists() == bool(weight)
    first = [losses_of(tmp_path / name, "loss/pos") for name in ("one", "two")]
    assert first[0] == first[1] != losses_of(straight, "loss/pos")[-1:]


def test_targets_that_are_ignored_have_no_class() -> None:
    """The unit counts targets with a class alone, also where padding stands and id 0 has a class; rows stay."""

    class Padded:
        def rows(self, numbers: NDArray[np.int64]) -> RowArrays:
            targets = np.array([[0, 1, 2, IGNORE], [2, IGNORE, IGNORE, IGNORE]])[numbers]
            turns = np.ones(len(numbers), np.int64)
            return RowArrays({"tokens": targets.clip(0), "targets": targets}, units={"turn": turns})

        def identity(self, consumed: int) -> dict[str, Any]:
            return {"of": consumed}

        def metrics(self, consumed: int) -> dict[str, float]:
            return {"epoch": 1.0}

    order = TaggedTargets(Padded(), np.array([4, 0, NO_CLASS]))
    read, before = order.rows(np.arange(2)), Padded().rows(np.arange(2))
    assert read.units["tagged"].tolist() == [2, 0] and read.units["turn"].tolist() == [1, 1]
    assert all((read[name] == before[name]).all() for name in before.arrays)
    assert order.identity(3) == {"of": 3} and order.metrics(3) == {"epoch": 1.0}


def test_without_jieba_the_message_says_what_to_install(
    tagged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the option and the extra that has jieba."""
    load_tagger.cache_clear()
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(UserError, match=r'^aux\.pos_weight=0\.5 needs jieba: pip install "babyllm\[corpus\]"$'):
        train_stage(a_run(tagged, tmp_path / "run"), begin)
