"""Losses and accuracies of conversations against plain computations."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation_fixtures import KINDS, talk
from model_fixtures import Tiny
from torch.nn import functional as F

from babyllm.chat.load import ChatTemplate
from babyllm.chat.messages import ASSISTANT, USER, Conversation, Message
from babyllm.errors import UserError
from babyllm.evaluate.conversations.answers import Accuracy, closed_turns, losses, majority_shares, turn_accuracy
from babyllm.evaluate.conversations.by_task import measure
from babyllm.evaluate.conversations.samples import samples_of
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.store.conversations import ALL


def plain_nats(model: Transformer, ids: Sequence[int], n: int) -> float:
    """Nats of the last `n` ids."""
    logits = model.logits(torch.tensor([ids[:-1]]))[0].double()
    return float(F.cross_entropy(logits[-n:], torch.tensor(ids[-n:]), reduction="sum"))


def plain_choice(model: Transformer, template: ChatTemplate, messages: Sequence[Message]) -> str:
    """The most probable candidate as the answer to these messages."""
    nats = {}
    for text in KINDS:
        answer = [*template.tokenizer.encode(text), template.tokenizer.special["<|im_end|>"]]
        nats[text] = plain_nats(model, [*template.prompt(messages), *answer], len(answer))
    return min(nats, key=lambda text: nats[text])


def closed_answers(template: ChatTemplate, conversations: Iterable[Conversation]) -> dict[str, list[str]]:
    """Of each closed task, its answers as texts."""
    end, decode = [template.tokenizer.special["<|im_end|>"]], template.tokenizer.decode
    closed = closed_turns(samples_of(template, conversations, 128))
    assert all(list(answer[-1:]) == end for answers in closed.values() for answer in answers)
    return {task: sorted(decode(answer[:-1]) for answer in answers) for task, answers in closed.items()}


def accuracy(
    model: Transformer,
    template: ChatTemplate,
    conversations: Iterable[Conversation],
    candidates: dict[str, list[str]],
    runtime: Runtime,
    **more: int,
) -> dict[str, Accuracy]:
    """What `turn_accuracy` returns for conversations and candidates as texts."""
    turns = {
        task: [samples_of(template, [talk("?", text)], 128)[0].answers()[0][1] for text in texts]
        for task, texts in candidates.items()
    }
    samples = samples_of(template, conversations, model.config.max_seq_len)
    return turn_accuracy(model, samples, turns, runtime, **more)


def test_accuracy_is_that_of_one_candidate_at_a_time(
    model: Transformer, template: ChatTemplate, conversations: list[Conversation], runtime: Runtime
) -> None:
    """The last answer and earlier ones that are candidates count, each given the true messages before it."""
    candidates = closed_answers(template, conversations)
    assert candidates == {"kind": sorted(KINDS)}
    right = n = 0
    for conversation in conversations[:40]:
        messages = conversation.messages
        for i, message in enumerate(messages):
            if message.role == ASSISTANT and (i == len(messages) - 1 or message.content in KINDS):
                n += 1
                right += plain_choice(model, template, messages[:i]) == message.content
    assert 0 < right < n == 48
    for batch_tokens in (8192, 100):
        found = accuracy(model, template, conversations, candidates, runtime, batch_tokens=batch_tokens)
        assert found == {"kind": Accuracy(right, n)}


def test_answers_that_are_no_candidates_count_as_wrong(
    model: Transformer, template: ChatTemplate, runtime: Runtime
) -> None:
    """A last answer outside the candidates is asked for and wrong; an earlier one is not asked for; nor other tasks."""
    talks = [talk("今", "书", "天", "the next"), talk("今", "书", task="write")]
    assert accuracy(model, template, talks, {"kind": KINDS}, runtime) == {"kind": Accuracy(0, 1)}
    assert accuracy(model, template, talks[1:], {"kind": KINDS}, runtime) == {}


def test_ties_are_shared_and_no_numbers_are_wrong(template: ChatTemplate, tiny: Tiny, runtime: Runtime) -> None:
    """Of candidates that are equally probable the right one counts its share; a broken model is never right."""
    model = Transformer(tiny(tie_embeddings=False))
    torch.nn.init.zeros_(model.lm_head.weight)
    talks = [talk("今", answer) for answer in ("天", "书", "气", "好")]
    candidates = {"kind": ["天", "书", "气", "好"]}
    assert accuracy(model, template, talks, candidates, runtime) == {"kind": Accuracy(1.0, 4)}
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    assert accuracy(model, template, talks, candidates, runtime) == {"kind": Accuracy(0.0, 4)}
    assert model.training, "it is in the mode it was in"


class OneOfTwo(Runtime):
    """A rank of two that keeps its own sums instead of adding the other's."""

    def sum(self, values: Sequence[float]) -> list[float]:
        self.sums = [*getattr(self, "sums", []), *values]
        return [1.0] * len(values)


def test_ranks_share_the_work(
    model: Transformer, template: ChatTemplate, conversations: list[Conversation], runtime: Runtime
) -> None:
    """Both ranks' sums together are those of one process, and each does a part."""
    samples = samples_of(template, conversations, 128)
    ranks = [OneOfTwo(**{**vars(runtime), "world_size": 2, "rank": rank}) for rank in (0, 1)]
    alone = OneOfTwo(**vars(replace(runtime)))
    for one in (*ranks, alone):
        turn_accuracy(model, samples, closed_turns(samples), one)
        losses(model, samples, one)
    assert [a + b for a, b in zip(ranks[0].sums, ranks[1].sums, strict=True)] == pytest.approx(alone.sums, rel=1e-6)
    assert all(min(rank.sums) > 0 for rank in ranks)


def test_losses_are_exact_over_conversations(
    model: Transformer, template: ChatTemplate, conversations: list[Conversation], runtime: Runtime
) -> None:
    """Nats and tokens of each task are those of its answers and end tokens, one conversation at a time."""
    expected: dict[str, list[float]] = {"kind": [0.0, 0.0], "write": [0.0, 0.0]}
    for conversation in conversations:
        for i, message in enumerate(conversation.messages):
            if message.role == ASSISTANT:
                prompt = template.prompt(conversation.messages[:i])
                answer = [*template.tokenizer.encode(message.content), template.tokenizer.special["<|im_end|>"]]
                expected[conversation.task][0] += plain_nats(model, [*prompt, *answer], len(answer))
                expected[conversation.task][1] += len(answer)
    for batch_tokens in (8192, 150):
        found = losses(model, samples_of(template, conversations, 128), runtime, batch_tokens=batch_tokens)
        assert found.keys() == expected.keys()
        for task, pair in expected.items():
            assert found[task] == pytest.approx(tuple(pair), rel=1e-5)
    measured = measure(model, samples_of(template, conversations, 128), {}, runtime)
    totals = [sum(pair[i] for pair in expected.values()) for i in (0, 1)]
    assert measured[ALL].loss == pytest.approx(totals[0] / totals[1], rel=1e-5)
    assert (measured[ALL].n, measured["kind"].n, measured[ALL].accuracy) == (60, 40, None)


def test_no_task_can_be_named_as_the_total(model: Transformer, template: ChatTemplate, runtime: Runtime) -> None:
    """A task of that name would be lost among the measurements, so it is refused."""
    samples = samples_of(template, [talk("今", "天", task=ALL)], 128)
    with pytest.raises(UserError, match="the name 'all'"):
        measure(model, samples, {}, runtime)


def test_what_makes_a_task_closed(template: ChatTemplate) -> None:
    """Twenty conversations end in two to ten answers that all occur twice; weight 0 takes an answer out."""

    def closed(answers: Sequence[str]) -> list[str] | None:
        found = closed_answers(template, (talk("今", answer) for answer in answers))
        assert found.keys() <= {"kind"}
        return found.get("kind")

    assert closed(["b", "a"] * 10) == ["a", "b"]
    assert closed(["a", "b"] * 9 + ["a"]) is None, "too few conversations"
    assert closed(["a"] * 20) is None, "nothing to choose"
    assert closed(["a", "b"] * 10 + ["c"]) is None, "an answer that occurs once"
    assert closed([str(i % 10) for i in range(20)]) == [str(i) for i in range(10)]
    assert closed([str(i % 11) for i in range(22)]) is None, "too many answers"
    unweighted = Conversation((Message(USER, "今"), Message(ASSISTANT, "c", weight=0)), "kind")
    assert closed_answers(template, [*(talk("今", x) for x in "ab" * 10), unweighted]) == {"kind": ["a", "b"]}
    turns = closed_answers(template, (talk("今", "z", "天", answer) for answer in "ab" * 10))
    assert turns == {"kind": ["a", "b"]}, "the last answer decides"


def test_the_most_frequent_answer(template: ChatTemplate) -> None:
    """Always giving the most frequent answer is right as often as that occurs among what is asked for."""
    samples = samples_of(template, [talk("今", x) for x in "aaab"] + [talk("今", "b", "天", "b")], 128)
    candidates = {"kind": [s.answers()[0][1] for s in samples[2:4]]}
    assert majority_shares(samples, candidates) == {"kind": 0.5}
    assert majority_shares(samples, {}) == {}


def test_prompts_too_long_lose_their_oldest(template: ChatTemplate, tiny: Tiny, runtime: Runtime) -> None:
    """A conversation longer than the context loses its oldest turns; where a candidate needs more, ids; none fails."""
    torch.manual_seed(1)
    model = Transformer(tiny(max_seq_len=40)).eval()
    long = talk("今天气很好我们去公园看书" * 3, "书", "今", "天")
    samples = samples_of(template, [long, talk("今", "天")], 40)
    assert np.array_equal(samples[0].ids, samples[1].ids)
    assert samples_of(template, [talk("今天" * 40, "书")], 40) == []
    found = accuracy(model, template, [long, talk("今天气", "天")], {"kind": ["天", "今天" * 12]}, runtime)
    assert found["kind"].n == 2
