"""The built-in tasks: each reads records in the form in which its set is published."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from babyllm.evaluate.tasks.evaluation import find_items
from babyllm.evaluate.tasks.task import BUILT_IN, built_in, load_task
from babyllm.evaluate.tasks.task_options import TaskOptions

ROOT = Path(__file__).resolve().parents[3]
EXAMS = {"arc_challenge", "arc_easy", "belebele_en", "belebele_zh", "c3", "ceval", "cmmlu", "mmlu"}
YES, PAIR = ["no", "yes"], {"sentence_good": "我有三本书。", "sentence_bad": "我有三条书。"}
TWO = {"sentence1": "The cat sat.", "sentence2": "A cat sat."}
ZWEI = {"sentence1": "如何还款？", "sentence2": "怎么还钱？"}
ARC = {
    "question": "What is wet?",
    "choices": {"text": ["fire", "rain", "sand"], "label": ["1", "2", "3"]},
    "answerKey": "2",
}
BELEBELE = {
    **{"link": "l", "flores_passage": "It rained.\n", "question": "What fell?", "correct_answer_num": "2"},
    **{"mc_answer1": "snow", "mc_answer2": "rain", "mc_answer3": "stars", "mc_answer4": "hail"},
}
HELLASWAG = {
    **{"activity_label": "Cooking", "ctx_a": "A cook cuts [step] an onion.", "ctx_b": "then the Cook", "label": "1"},
    "endings": ["sleeps.", "fries it [title] Eat.", "flies.", "sings."],
}
PRONOUN = {"span1_text": "Ann", "span2_text": "she", "span1_index": 0, "span2_index": 4}
C3 = [["女：几点了？", "男：三点。"], [{"question": "现在几点？", "choice": ["两点", "三点"], "answer": "三点"}], "m-1"]
PREMISE = {"premise": "It rains.", "hypothesis": "It is wet"}
OPTIONS = ["snow", "rain", "stars", "hail"]
MADE = "Sentence: It rains."

# task, file, its lines (texts or JSON values), question, options, index of the answer
FORMS: list[tuple[str, str, list[Any], str, list[str], int]] = [
    ("ceval", "val/law_val.csv", ["id,question,A,B,C,D,answer", "0,几？,一,二,三,四,C"],
     "几？", ["一", "二", "三", "四"], 2),
    ("mmlu", "test/law_test.csv", ['"How, many? ",1,2,3,4,B'], "How, many?", ["1", "2", "3", "4"], 1),
    ("arc_easy", "ARC-Easy/test.jsonl", [ARC], "Question: What is wet?", ["fire", "rain", "sand"], 1),
    ("arc_challenge", "test.jsonl", [ARC], "Question: What is wet?", ["fire", "rain", "sand"], 1),
    (
        *("hellaswag", "hellaswag_val.jsonl", [HELLASWAG], "Cooking: A cook cuts an onion. Then the cook"),
        *(["sleeps.", "fries it. Eat.", "flies.", "sings."], 1),
    ),
    ("piqa", "validation.jsonl", [{"goal": "Dry it.", "sol1": "Towel.", "sol2": "Rain.", "label": 0}],
     "Question: Dry it.", ["Towel.", "Rain."], 0),
    ("winogrande", "dev.jsonl", [{"sentence": "A hit B so _ cried.", "option1": "A", "option2": "B", "answer": "2"}],
     "A hit B so ", ["A", "B"], 1),
    ("truthfulqa", "validation.jsonl", [{"question": "Why?", "mc1_targets": {"choices": ["So.", "No."],
     "labels": [1, 0]}}],
     "Q: Why?", ["So.", "No."], 0),
    ("belebele_zh", "zho_Hans.jsonl", [BELEBELE], "It rained.\n问题：What fell?", OPTIONS, 1),
    ("belebele_en", "data/eng_Latn.jsonl", [BELEBELE], "It rained.\nQuestion: What fell?", OPTIONS, 1),
    ("c3", "c3-d-test.json", [[C3]], "女：几点了？\n男：三点。\n问题：现在几点？", ["两点", "三点"], 1),
    ("blimp", "data/island.jsonl", [{**PAIR, "UID": "island"}], "", list(PAIR.values()), 0),
    ("zhoblimp", "BA_deletion.jsonl", [PAIR], "", list(PAIR.values()), 0),
    ("sling", "Aspect/a.jsonl", [PAIR], "", list(PAIR.values()), 0),
    ("zh_pairs", "classifier.jsonl", [{**PAIR, "paradigm": "classifier"}], "", list(PAIR.values()), 0),
    ("cola", "dev.tsv", ["gj04\t0\t*\tHim sleeps."], "Him sleeps.\nQuestion: Is this sentence grammatical?", YES, 0),
    ("cola", "cola.valid.jsonl", [{"sentence": "He sleeps.", "label": 1, "idx": 0}],
     "He sleeps.\nQuestion: Is this sentence grammatical?", YES, 1),
    ("sst2", "dev.tsv", ["sentence\tlabel", "a joy \t1"], "a joy\nQuestion: Is this review positive or negative?",
     ["negative", "positive"], 1),
    ("mrpc", "dev.tsv", ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", '1\t7\t8\tThe "cat" sat.\tA cat sat.'],
     'Sentence 1: The "cat" sat.\nSentence 2: A cat sat.\nQuestion: Do both sentences mean the same?', YES, 1),
    ("mrpc", "validation.jsonl", [{**TWO, "label": 1, "idx": 9}],
     "Sentence 1: The cat sat.\nSentence 2: A cat sat.\nQuestion: Do both sentences mean the same?", YES, 1),
    ("qqp", "dev.tsv", ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "1\t2\t3\tWho?\tWhy?\t0"],
     "Question 1: Who?\nQuestion 2: Why?\nQuestion: Do both questions ask the same?", YES, 0),
    ("mnli", "validation_matched.jsonl", [{**PREMISE, "label": 2}],
     "It rains.\nQuestion: It is wet True, False or Neither?", ["True", "Neither", "False"], 2),
    ("qnli", "dev.tsv", ["index\tquestion\tsentence\tlabel", "0\tWho?\tHe did.\tnot_entailment"],
     "Who?\nHe did.\nQuestion: Does this sentence answer the question?", ["yes", "no"], 1),
    ("rte", "dev.tsv", ["index\tsentence1\tsentence2\tlabel", "0\tIt rains.\tIt is wet.\tentailment"],
     "It rains.\nQuestion: It is wet. True or False?", ["True", "False"], 0),
    ("rte", "val.jsonl", [{**PREMISE, "label": "not_entailment"}],
     "It rains.\nQuestion: It is wet True or False?", ["True", "False"], 1),
    ("wnli", "validation.jsonl", [{**TWO, "label": 1}],
     "The cat sat.\nQuestion: A cat sat. True or False?", ["False", "True"], 1),
    ("boolq", "val.jsonl", [{"question": "is it so", "passage": "It is so.", "label": True}],
     "It is so.\nQuestion: is it so?", YES, 1),
    ("cb", "val.jsonl", [{**PREMISE, "label": "neutral"}],
     "It rains.\nQuestion: It is wet. True, False or Neither?", ["True", "False", "Neither"], 2),
    ("copa", "val.jsonl",
     [{"premise": "He fell.", "choice1": "It was icy.", "choice2": "He sang.", "question": "cause", "label": 0}],
     "He fell because", ["it was icy.", "he sang."], 0),
    ("multirc", "validation.jsonl", [{"paragraph": "P.", "question": "Q?", "answer": "A", "label": 1}],
     "P.\nQuestion: Q?\nSuggestion: A\nIs the suggestion right?", YES, 1),
    ("wic", "val.jsonl", [{**TWO, "word": "cat", "label": False}],
     'Sentence 1: The cat sat.\nSentence 2: A cat sat.\n'
     'Question: Has the word "cat" the same meaning in both sentences?',
     YES, 0),
    ("wsc", "val.jsonl", [{"text": "Ann said she left.", "target": PRONOUN, "label": True}],
     'Ann said she left.\nQuestion: Does "she" stand for "Ann"?', YES, 1),
    ("wsc", "wsc.valid.jsonl", [{"text": "Ann said she left.", **PRONOUN, "label": 0}],
     'Ann said she left.\nQuestion: Does "she" stand for "Ann"?', YES, 0),
    ("msgs", "main_verb_lexical_content_the.valid.jsonl", [{"sentence": "It rains.", "label": 1}], MADE, YES, 1),
    ("msgs_control", "main_verb_control.valid.jsonl", [{"sentence": "It rains.", "label": 0}], MADE, YES, 0),
    ("afqmc", "dev.json", [{**ZWEI, "label": "1"}],
     "问题一：如何还款？\n问题二：怎么还钱？\n这两个问题的意思相同吗？", ["不同", "相同"], 1),
    ("bustm", "bustm/test_public.json", [{**ZWEI, "label": "0", "id": 1}],
     "第一句：如何还款？\n第二句：怎么还钱？\n这两句话的意思相同吗？", ["不同", "相同"], 0),
    ("tnews", "dev.json", [{"label": "109", "label_desc": "news_tech", "sentence": "新手机", "keywords": ""}],
     "新手机", [], 8),
    ("iflytek", "dev.json", [{"label": "118", "label_des": "其他", "sentence": "应用"}], "应用", [], 118),
    ("ocnli", "dev.json", [{**ZWEI, "label": "-"}, {**ZWEI, "label": "contradiction"}],
     "如何还款？\n由此可知：怎么还钱？这句话对、错，还是不一定？", ["对", "错", "不一定"], 1),
    ("cmnli", "dev.json", [{**ZWEI, "label": "neutral"}],
     "如何还款？\n由此可知：怎么还钱？这句话对、错，还是不一定？", ["对", "错", "不一定"], 2),
    ("csl", "dev.json", [{"id": 1, "abst": "论文。", "keyword": ["水", "电"], "label": "1"}],
     "摘要：论文。\n关键词：水、电\n这些都是这篇摘要的关键词吗？", ["不是", "是"], 1),
    ("cluewsc", "dev.json",
     [{"target": {"span1_text": "小明", "span2_text": "他"}, "label": "true", "text": "小明说他饿。"}],
     "小明说他饿。\n句中的“他”指的是“小明”吗？", ["不是", "是"], 1),
    ("chid", "test_public.json", [{"id": 1, "candidates": ["一心一意", "三心二意"],
     "content": "他#idiom#地学。", "answer": 0}],
     "他", ["一心一意", "三心二意"], 0),
    ("eprstmt", "test_public.json", [{"id": 1, "sentence": "很好用", "label": "Positive"}],
     "很好用", ["差评", "好评"], 1),
    ("reviews_zh", "sample.jsonl", [{"text": "新闻"}, {"text": "很差", "label": "negative"}],
     "很差", ["差评", "好评"], 0),
    ("xcopa", "test.zh.jsonl",
     [{"premise": "下雨了。", "choice1": "地湿了。", "choice2": "地干了。", "question": "effect", "label": 0}],
     "下雨了所以", ["地湿了。", "地干了。"], 0),
    ("cmmlu", "test/law.csv", ["Question,A,B,C,D,Answer", "几？,一,二,三,四,A"], "几？", ["一", "二", "三", "四"], 0),
    ("gsm8k", "test.jsonl", [{"question": "1 + 1?", "answer": "2 #### 2"}], "Question: 1 + 1?", [], -1),
]  # fmt: skip


@pytest.mark.parametrize(("task", "name", "lines", "question", "options", "answer"), FORMS)
def test_a_published_form_becomes_an_item(
    task: str, name: str, lines: list[Any], question: str, options: list[str], answer: int, tmp_path: Path
) -> None:
    """A record in the form of a set yields one item: its question, its options and the right one."""
    file = tmp_path / task / name
    file.parent.mkdir(parents=True)
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    file.write_text("\n".join(texts) + "\n", encoding="utf-8")
    found = find_items(task, TaskOptions(task_dir=str(tmp_path), shots=0))
    (item,) = found.items
    assert (item.question, item.answer) == (question, answer)
    assert list(item.options) == options or (not options and item.options[answer] in ("科技", "其他")) or answer < 0
    if found.task.target:
        assert item.reference == {"winogrande": " cried.", "chid": "地学。"}[task]


def test_every_built_in_task_is_complete() -> None:
    """Each built-in task names its source, has a form above, and shows letters only where an exam has them."""
    assert {form[0] for form in FORMS} == set(built_in())
    for name in built_in():
        task = load_task(name)
        assert len(task.about) > 20 and task.best, name
        assert task.has_letters == (name in EXAMS), name
        assert all(len(line) <= 120 for line in (BUILT_IN / f"{name}.yaml").read_text(encoding="utf-8").splitlines())


def _entries(language: str) -> list[str]:
    """The items of the lists of docs/LANGUAGE/evaluation/tasks.md, each on one line."""
    page = (ROOT / "docs" / language / "evaluation/tasks.md").read_text(encoding="utf-8")
    return [" ".join(each.split("\n\n")[0].split()) for each in page.split("\n- ")[1:]]


def test_the_page_lists_every_built_in_task() -> None:
    """docs/en/evaluation/tasks.md lists each built-in task with its kind, its best metric and its own description."""
    entries = _entries("en")
    names = {"options": "options", "pairs": "minimal pairs", "generated": "generated answer"}
    tasks = [load_task(name) for name in built_in()]
    assert sorted(entries) == sorted(f"`{t.name}` ({names[t.kind]}, `{t.best}`): {t.about}" for t in tasks)


def test_the_chinese_page_lists_every_built_in_task() -> None:
    """docs/zh/evaluation/tasks.md lists each with its kind, its best metric, a text in Chinese and the same numbers."""
    names = {"options": "选项", "pairs": "最小对立句对", "generated": "生成的答案"}
    tasks = [load_task(name) for name in built_in()]
    heads = {f"`{t.name}`（{names[t.kind]}，`{t.best}`）": t for t in tasks}
    entries = dict(each.split("：", 1) for each in _entries("zh"))
    assert entries.keys() == heads.keys()
    for head, text in entries.items():
        assert re.search("[一-鿿]{2}", text), head
        assert re.findall(r"\d+", text) == re.findall(r"\d+", heads[head].about), head
