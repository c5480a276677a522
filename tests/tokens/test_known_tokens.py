"""A vocabulary that grows: which tokens a step knows, and what becomes of the others."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_fixtures import CPU, tiny_config

from babyllm.data.difficulty.token_places import ALWAYS, token_places
from babyllm.data.loader import Loader
from babyllm.data.order.known_tokens import VocabularyPace
from babyllm.data.row_config import CompetenceConfig, Share, VocabularyConfig
from babyllm.data.token_config import DataConfig
from babyllm.data.token_data import PretrainingData, make_loader, open_pretraining_data
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.model.cross_entropy import IGNORE
from babyllm.model.options import ModelOptions
from babyllm.prepare.encode import write_tokens
from babyllm.runtime import Runtime, start
from babyllm.schedule import Plan
from babyllm.tokenizer import Tokenizer

STEPS = 20


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with start(CPU) as started:
        yield started


def opened(path: Path, **changes: Any) -> tuple[DataConfig, PretrainingData]:
    config = replace(tiny_config(path).data, **changes)
    return config, open_pretraining_data(config)


def steps_of(path: Path, runtime: Runtime, n: int = STEPS, share: Share | None = None, **changes: Any) -> list[Any]:
    """(tokens, targets, number of targets) of each step."""
    config, data = opened(path, **changes)
    model = ModelOptions(n_layers=1, d_model=8, n_heads=1).build(data.tokens.manifest.vocab_size, 16)
    loader, _ = make_loader(config, data, model, runtime, Plan(steps=STEPS))
    if share:
        loader = Loader(loader._reader.order, share, config.seed)
    found = []
    for _ in range(n):
        batches = next(loader)
        tokens, targets = (np.concatenate([batch[name].numpy() for batch in batches]) for name in ("tokens", "targets"))
        found.append((tokens, targets, sum(batch.units["token"] for batch in batches)))
    loader.close()
    return found


@pytest.mark.parametrize("kind", ["linear", "log"])
def test_the_pace_counts_from_where_it_begins(kind: Any) -> None:
    """Up to `begin` the share is d0; then it follows CLIMB's formula of the steps since, without a jump, up to 1."""
    pace = VocabularyPace(kind, 0.2, 100, 900)
    assert pace.at(0) == pace.at(100) == pytest.approx(0.2)
    for step in (101, 300, 899):
        t = (step - 100) / 800
        share = t if kind == "linear" else 1 + math.log(t + math.exp(-10)) / 10
        assert pace.at(step) == pytest.approx(0.8 * share + 0.2)
    assert pace.at(900) == pace.at(5000) == 1.0


def test_frequent_tokens_become_known_first(data: Path) -> None:
    """Places follow the counts in the training data; special tokens and single bytes are always known."""
    _, found = opened(data)
    assert found.tokenizer is not None
    stream, sizes = found.tokens.stream("train"), found.tokenizer.byte_lengths()
    places = token_places("rank", stream, found.tokenizer, len(sizes))
    counts = Counter(stream.read(0, len(stream)).tolist())
    assert ((places == ALWAYS) == (sizes <= 1)).all()
    in_order = np.argsort(places)[(places == ALWAYS).sum() :].tolist()
    assert [counts[token] for token in in_order] == sorted((counts[token] for token in in_order), reverse=True)


def test_unknown_tokens_are_unk_and_no_targets(data: Path, runtime: Runtime) -> None:
    """At each step the tokens beyond its share are <unk> among the inputs and ignored as targets; others stay."""
    settings = VocabularyConfig(by="rank", start=0.1, begin=2, until=12)
    plain, changed = steps_of(data, runtime), steps_of(data, runtime, vocabulary=settings)
    _, found = opened(data)
    assert found.tokenizer is not None
    places = token_places("rank", found.tokens.stream("train"), found.tokenizer, len(found.tokenizer.byte_lengths()))
    pace, size = VocabularyPace("linear", 0.1, 2, 12), places.max() + 1
    n_hidden = []
    for step, ((tokens, targets, _), (mine, my_targets, units)) in enumerate(zip(plain, changed, strict=True)):
        known = places < round(pace.at(step) * size)
        assert (mine == np.where(known[tokens], tokens, found.tokenizer.unk_id)).all()
        is_kept = (targets != IGNORE) & known[targets.clip(0)]
        assert (my_targets == np.where(is_kept, targets, IGNORE)).all()
        assert units == is_kept.sum()
        n_hidden.append(int((mine != tokens).sum()))
    assert n_hidden[0] > 0 == n_hidden[12] == n_hidden[-1]


def test_it_goes_with_a_curriculum_and_ranks(data: Path, runtime: Runtime) -> None:
    """Beside a curriculum the rows are the curriculum's, and two ranks together read what one reads."""
    both = {"vocabulary": VocabularyConfig(by="rank"), "curriculum": CompetenceConfig(by="unigram")}
    one = steps_of(data, runtime, **both)
    halves = [steps_of(data, runtime, share=Share(8, 1, rank, 2), **both) for rank in range(2)]
    for step, (tokens, targets, units) in enumerate(one):
        assert (np.concatenate([half[step][0] for half in halves]) == tokens).all()
        assert (np.concatenate([half[step][1] for half in halves]) == targets).all()
        assert units == sum(half[step][2] for half in halves)


def test_a_resumed_run_needs_the_same_vocabulary(data: Path, runtime: Runtime) -> None:
    """The position of a run with another pace is refused."""
    loaders = []
    for pace in ("linear", "log"):
        config, found = opened(data, vocabulary=VocabularyConfig(by="rank", pace=pace))  # type: ignore[arg-type]
        model = ModelOptions(n_layers=1, d_model=8, n_heads=1).build(found.tokens.manifest.vocab_size, 16)
        loaders.append(make_loader(config, found, model, runtime, Plan(steps=STEPS))[0])
    next(loaders[0])
    loaders[0].close()
    with pytest.raises(UserError, match=r"^data\.vocabulary: the 8 sequences"):
        loaders[1].load_state_dict(loaders[0].state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (VocabularyConfig(by="rank", begin=16), "data.vocabulary.until=0.8: is step 16, but .* step 16"),
    ],
)
def test_a_pace_that_ends_before_it_begins_is_refused(
    data: Path, runtime: Runtime, settings: VocabularyConfig, message: str
) -> None:
    """The message names the key and both steps."""
    with pytest.raises(UserError, match=message):
        steps_of(data, runtime, vocabulary=settings)


def test_nouns_become_known_first(tmp_path: Path, runtime: Runtime) -> None:
    """By part of speech, nouns come before verbs, these before pronouns and those before particles."""
    pytest.importorskip("jieba")
    texts = ["老师 学习 我们 的", "学校 讨论 他们 吗", "老师 讨论 的", "学校 学习 吗", "我们 的 学校", "他们 学习"] * 9
    tokenizer = Tokenizer.train(texts, 330, n_threads=1, hard_vocab_limit=False)
    write_tokens([Document(text, "a") for text in texts], tokenizer, tmp_path, held_out=0.0)
    _, found = opened(tmp_path)
    places = token_places("pos", found.tokens.stream("train"), tokenizer, tokenizer.vocab_size)
    kinds = {tokenizer.decode([token]).strip(): int(place) for token, place in enumerate(places) if place != ALWAYS}
    for earlier, later in pairwise((("老师", "学校"), ("学习", "讨论"), ("我们", "他们"), ("的", "吗"))):
        assert max(kinds[word] for word in earlier) < min(kinds[word] for word in later)
