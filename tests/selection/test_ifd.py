"""Loss, perplexity and IFD of answers, with transformers as the judge of the numbers."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_fixtures import some_conversations, talk
from model_fixtures import Tiny, decisive

from babyllm.chat.formats import FormatConfig
from babyllm.chat.load import ChatTemplate, load_template
from babyllm.chat.messages import ASSISTANT, Conversation, Message
from babyllm.chat.reading import read_conversations
from babyllm.errors import UserError
from babyllm.interop.huggingface import save_model
from babyllm.model.transformer import Transformer
from babyllm.selection.scorers.answer_losses import IFD_COLUMNS, AnswerLosses
from babyllm.selection.scorers.answer_rows import answer_rows
from babyllm.text.readers import Rejected
from babyllm.tokenizer import Tokenizer

TEMPLATES = ("chatml", "llama3", "llama2", "alpaca", "plain")


@pytest.fixture(scope="module")
def chatml(tokenizer: Tokenizer) -> ChatTemplate:
    return load_template("chatml", tokenizer)


@pytest.fixture(scope="module")
def model(tiny: Tiny, chatml: ChatTemplate) -> Transformer:
    return decisive(tiny(vocab_size=chatml.tokenizer.vocab_size, max_seq_len=256))


def nats_by_transformers(theirs: Callable[..., object], ids: Sequence[int], marked: Sequence[bool]) -> float:
    """The nats of the marked ids, from the logits of a row of its own."""
    with torch.no_grad():
        logits = theirs(torch.tensor([ids])).logits[0].double()  # type: ignore[attr-defined]
    nats = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids)[1:], reduction="none")
    return float(nats[torch.tensor(marked)[1:]].sum())


def expected(theirs: Callable[..., object], template: ChatTemplate, conversation: Conversation) -> dict[str, float]:
    """The columns, from the rendering of the conversation alone."""
    rendered = template.render(conversation.messages)
    ids, turns = rendered.ids.tolist(), rendered.turns.tolist()
    header = template.tokenizer.special["<|im_start|>"], *template.tokenizer.encode("assistant\n")
    n = sum(turn > 0 for turn in turns)
    after = nats_by_transformers(theirs, ids, [turn > 0 for turn in turns]) / n
    alone = 0.0
    for turn in range(1, max(turns) + 1):
        answer = [i for i, number in zip(ids, turns, strict=True) if number == turn]
        alone += nats_by_transformers(theirs, [*header, *answer], [False] * len(header) + [True] * len(answer))
    return {
        "ifd": after / (alone / n),
        "ifd_perplexity": float(np.exp(after) / np.exp(alone / n)),
        "answer_loss": after,
        "direct_loss": alone / n,
        "answer_perplexity": float(np.exp(after)),
        "answer_tokens": n,
        "prompt_tokens": max(i for i, turn in enumerate(turns) if turn) + 1 - n,
    }


def compare(model: Transformer, template: ChatTemplate, folder: Path, conversations: list[Conversation]) -> None:
    from transformers import AutoModelForCausalLM

    save_model(folder, model, None)
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    scores = AnswerLosses(model, template).score(conversations)
    assert set(scores.columns) == set(IFD_COLUMNS) and not any(scores.reasons)
    for i, conversation in enumerate(conversations):
        for name, value in expected(theirs, template, conversation).items():
            assert scores.columns[name][i] == pytest.approx(value, rel=1e-5, abs=1e-5), (name, conversation.id)


def test_scores_equal_those_of_transformers(model: Transformer, chatml: ChatTemplate, tmp_path: Path) -> None:
    """Every column of conversations with one and with several answers is what transformers' logits say."""
    compare(model, chatml, tmp_path, some_conversations()[::3])


@pytest.mark.slow
@pytest.mark.skipif("BABYLLM_DATA" not in os.environ, reason="needs BABYLLM_DATA")
def test_scores_of_real_records_equal_those_of_transformers(tiny: Tiny, tmp_path: Path) -> None:
    """IFD of 200 real records, with one turn and with several, is within 1e-5 of transformers' on the same weights."""
    folder = Path(os.environ["BABYLLM_DATA"]) / "sft"
    found: list[Conversation] = []
    for name, n in (("alpaca_zh_demo.json", 80), ("alpaca_en_demo.json", 60), ("sharegpt_zh_1k.jsonl", 60)):
        usable = (one for one in read_conversations(folder / name, FormatConfig()) if not isinstance(one, Rejected))
        found += islice((one for one in usable if sum(len(message.content) for message in one.messages) < 1500), n)
    texts = [message.content for conversation in found for message in conversation.messages]
    template = load_template("chatml", Tokenizer.train(texts, 4000, n_threads=1))
    shape = tiny(vocab_size=template.tokenizer.vocab_size, max_seq_len=2048)
    compare(decisive(shape), template, tmp_path, found)
    assert len(found) == 200 and max(len(conversation.messages) for conversation in found) > 2


@pytest.mark.parametrize("name", TEMPLATES)
def test_both_terms_score_the_same_ids(tokenizer: Tokenizer, name: str) -> None:
    """In every template both rows score each id of every answer, the first one included, after a context of its own."""
    template = load_template(name, tokenizer)
    for conversation in some_conversations():
        messages = [message for message in conversation.messages if message.role != "system"]
        rows = answer_rows(template, replace(conversation, messages=tuple(messages)), 512)
        rendered = template.render(messages)
        assert rows.conditioned.scored_ids.tolist() == rendered.ids[rendered.turns > 0].tolist()
        alone = [i for row in rows.direct for i in row.scored_ids.tolist()]
        assert alone == rows.conditioned.scored_ids.tolist() and len(alone) == rows.n_answer
        header = template.answer_header()
        assert all(row.ids[: len(header)].tolist() == header and not row.is_scored[0] for row in rows.direct)


def test_the_header_of_an_answer_depends_on_no_message(tokenizer: Tokenizer) -> None:
    """It is the begin token where conversations begin with one, and what asks for an answer, even with a system."""

    def header(name: str, system: str | None = None) -> str:
        template = load_template(name, tokenizer, default_system=system)
        names = {i: special for special, i in template.tokenizer.special.items()}
        return "".join(names.get(i) or template.tokenizer.decode([i]) for i in template.answer_header())

    begin = next(name for name, i in tokenizer.special.items() if i == tokenizer.bos_id)
    assert header("chatml") == header("chatml", "be kind") == "<|im_start|>assistant\n"
    assert header("llama3") == begin + "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert header("llama2") == header("plain") == begin
    assert header("alpaca") == "\n\n### Response:"


def test_an_answer_that_begins_a_conversation_has_the_same_two_losses(model: Transformer, tokenizer: Tokenizer) -> None:
    """Without a prompt the ratio is 1, also where the template writes nothing before an answer."""
    bare = "{% for m in messages %}{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}{% endfor %}"
    for template in (load_template("chatml", tokenizer), ChatTemplate(bare, tokenizer)):
        scores = AnswerLosses(model, template).score([Conversation((Message(ASSISTANT, "今天天气很好"),))])
        assert scores.columns["ifd"][0] == pytest.approx(1) and scores.columns["ifd_perplexity"][0] == pytest.approx(1)


def test_what_cannot_be_scored_has_a_reason(tiny: Tiny, chatml: ChatTemplate) -> None:
    """Too long a record, one without an answer, and one without an answer that is trained on are NaN with a reason."""
    short = decisive(tiny(vocab_size=chatml.tokenizer.vocab_size, max_seq_len=48))
    unasked = Conversation((Message("user", "a"), Message(ASSISTANT, "b", weight=0)))
    asked = Conversation((Message("user", "a"),))
    scores = AnswerLosses(short, chatml).score([talk("a", "b"), talk("a" * 90, "b"), asked, unasked, talk("c", "d")])
    assert [bool(reason) for reason in scores.reasons] == [False, True, True, True, False]
    assert "more than the model's context of 48" in scores.reasons[1] and "no answer" in scores.reasons[2]
    for values in scores.columns.values():
        assert np.isnan(values).tolist() == [False, True, True, True, False]
    assert AnswerLosses(short, chatml).score([asked]).reasons == scores.reasons[2:3]


def test_scores_do_not_depend_on_the_batch(model: Transformer, chatml: ChatTemplate) -> None:
    """Conversations scored together, one by one, and in tiny forward passes have the same scores."""
    conversations = some_conversations()[:12]
    whole = AnswerLosses(model, chatml).score(conversations)
    tiny_passes = AnswerLosses(model, chatml, batch_tokens=1).score(conversations)
    for i, conversation in enumerate(conversations):
        one = AnswerLosses(model, chatml).score([conversation])
        for name in IFD_COLUMNS:
            assert one.columns[name][0] == pytest.approx(whole.columns[name][i], rel=1e-5)
            assert tiny_passes.columns[name][i] == pytest.approx(whole.columns[name][i], rel=1e-5)


def test_the_last_answer_alone(model: Transformer, chatml: ChatTemplate) -> None:
    """With answers="last" the earlier answers are part of the prompt; weights of other roles do not matter."""
    messages = (Message("user", "a", weight=1), Message(ASSISTANT, "b"), Message("user", "c"), Message(ASSISTANT, "d"))
    conversation = Conversation(messages)
    last = AnswerLosses(model, chatml, answers="last").score([conversation]).columns
    every = AnswerLosses(model, chatml).score([conversation]).columns
    assert last["answer_tokens"][0] * 2 == every["answer_tokens"][0] == 4
    total = sum(every[name][0] for name in ("answer_tokens", "prompt_tokens"))
    assert total == sum(last[name][0] for name in ("answer_tokens", "prompt_tokens"))


def test_losses_without_the_direct_term(model: Transformer, chatml: ChatTemplate) -> None:
    """Without direct rows loss and perplexity are the same, and there is no IFD."""
    conversations = some_conversations()[:4]
    whole, part = (AnswerLosses(model, chatml, has_direct=has).score(conversations) for has in (True, False))
    assert "ifd" not in part.columns and set(part.columns) < set(whole.columns)
    for name, values in part.columns.items():
        assert values == pytest.approx(whole.columns[name], rel=1e-5)


def test_a_template_without_marks_is_refused(model: Transformer, tokenizer: Tokenizer) -> None:
    """What an answer is must be known: the message says how to mark it."""
    unmarked = ChatTemplate("{% for m in messages %}{{ m['content'] }}{% endfor %}", tokenizer, "stored")
    with pytest.raises(UserError, match=r"stored: has no {% generation %}"):
        AnswerLosses(model, unmarked).score(some_conversations()[:1])
