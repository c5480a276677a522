"""lm-evaluation-harness as the judge: the same requests and questions, the same numbers."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_fixtures import (
    adapted,
    furthest,
    our_items,
    our_numbers,
    reference,
    request,
    save_random,
    scores_of,
    their_numbers,
    their_tasks,
    write_made,
    write_subset,
)

from babyllm.errors import UserError
from babyllm.interop.huggingface import save_model
from babyllm.loading import load
from babyllm.model.config import ModelConfig
from babyllm.runtime import Runtime
from babyllm.tokenizer import Tokenizer

pytest.importorskip("lm_eval")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the libraries of lm-eval

CASES = [
    *[("cmmlu", form, delimiter) for form in ("letter|0", "text") for delimiter in ("", " ")],
    *[("xcopa", "text", delimiter) for delimiter in ("", " ")],
    ("sling", "text", ""),
]
NATS = 1e-3
"""Largest difference of two log-probabilities in float32."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., ModelConfig], tokenizer: Tokenizer) -> Path:
    """The directory of a random model with a chat template."""
    return save_random(tmp_path_factory.mktemp("model"), tiny(max_seq_len=4096, tie_embeddings=False), tokenizer)


@pytest.fixture(scope="module")
def theirs(saved: Path) -> Any:
    return reference(saved)


@pytest.fixture(scope="module")
def ours(saved: Path) -> Any:
    return adapted(saved)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions of random words."""
    folder = tmp_path_factory.mktemp("made")
    write_made(folder)
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first questions of CMMLU, XCOPA and SLING."""
    source = Path(os.environ.get("BABYLLM_DATA", ""), "eval")
    if not (source / "cmmlu").is_dir():
        pytest.skip("needs BABYLLM_DATA/eval")
    folder = tmp_path_factory.mktemp("real")
    write_subset(source, folder)
    return folder


@pytest.mark.parametrize("questions", ["made", "real"])
@pytest.mark.parametrize(("name", "form", "delimiter"), CASES)
def test_each_item_has_the_numbers_of_the_harness(
    saved: Path,
    theirs: Any,
    ours: Any,
    runtime: Runtime,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    questions: str,
    name: str,
    form: str,
    delimiter: str,
) -> None:
    """Log-probabilities and scores are those of lm-evaluation-harness, by `evaluate_task` and by our model in it."""
    folder = request.getfixturevalue(questions)
    found = our_items(folder, name, delimiter)
    tasks = their_tasks(folder, name, form, found.task)
    expected = their_numbers(theirs, tasks)
    assert sum(map(len, expected.values())) == len(found.items)
    within = their_numbers(ours, tasks)
    alone = our_numbers(saved, found, form, runtime, tmp_path)
    assert furthest(within, expected) < NATS and furthest(alone, expected) < NATS
    for task, numbers in expected.items():
        scores = [each.scores for each in numbers]
        assert [each.scores for each in within[task]] == [scores_of(each, form) for each in alone[task]] == scores


def test_scores_of_requests_equal_those_of_transformers(theirs: Any, ours: Any) -> None:
    """Any context, also none or one that is too long, has equal log-probabilities and verdicts on greediness."""
    begin = "今天气很好，the model reads"
    (greedy,) = theirs.generate_until([request(begin, {"until": [], "max_gen_toks": 3})])
    asked = [(begin, greedy), (begin, "one"), ("", begin), ("", "我们"), (begin * 400, "公园"), (begin * 400, "看书")]
    asked += [("the model reads ", " one token")] + [(f"{begin * 3}{word}", word) for word in ("书", "去", "书")]
    expected = theirs.loglikelihood([request(*each) for each in asked])
    found = ours.loglikelihood([request(*each) for each in asked])
    assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in expected], abs=NATS)
    assert [is_greedy for _, is_greedy in found] == [is_greedy for _, is_greedy in expected]
    assert [is_greedy for _, is_greedy in found][:2] == [True, False]


def test_numbers_do_not_depend_on_the_order_of_requests(ours: Any) -> None:
    """The same requests in another order have the same log-probabilities to the last bit."""
    asked = [
        request("今天气很好" * n + word, option) for n in (0, 1, 9) for word in "我看" for option in ("书", "公园。")
    ]
    found = ours.loglikelihood(asked)
    assert ours.loglikelihood(asked[::-1])[::-1] == found
    assert len(set(found)) == len(asked)


def test_a_token_across_the_border_is_scored(ours: Any, tokenizer: Tokenizer) -> None:
    """A continuation that is one token with the end of its context is scored as that token."""
    two = next(
        text for i in range(300, 400) if len(text := tokenizer.decode([i])) == 2 and tokenizer.encode(text) == [i]
    )
    ((nats, _), (whole, _)) = ours.loglikelihood([request(two[0], two[1]), request("", two)])
    assert nats == whole


def test_long_texts_are_read_in_the_same_windows(saved: Path) -> None:
    """Texts longer than the context have the rolling log-probabilities of transformers."""
    rng = random.Random(2)  # the harness confuses windows with equal ids
    texts = ["".join(rng.choices("今天气很好我们去公园看书 a", k=n)) for n in (10, 100, 171)] + ["好", ""]
    asked = [request(text, kind="loglikelihood_rolling") for text in texts]
    expected = reference(saved, max_length=48).loglikelihood_rolling(asked)
    found = adapted(saved, max_length=48).loglikelihood_rolling(asked)
    assert found == pytest.approx(expected, rel=1e-6, abs=NATS)


def test_answers_equal_greedy_ones_of_transformers(theirs: Any, ours: Any) -> None:
    """Greedy answers, ended by stop strings or their length, are those of transformers."""
    prompts = ["今天", "我们去公园", "the model", "他说明年再来，", "one token after"]
    settings: dict[str, Any] = {"until": [], "max_gen_toks": 24}
    whole = theirs.generate_until([request(prompt, settings) for prompt in prompts])
    assert ours.generate_until([request(prompt, settings) for prompt in prompts]) == whole
    asked = [
        request(prompt, {"until": [text[len(text) // 2 :][:2], "\n\n"], "max_gen_toks": 24})
        for prompt, text in zip(prompts, whole, strict=True)
    ]
    cut = ours.generate_until(asked)
    assert cut == theirs.generate_until(asked) and all(len(a) < len(b) for a, b in zip(cut, whole, strict=True))


def test_every_end_token_ends_an_answer(saved: Path, tmp_path: Path, theirs: Any) -> None:
    """An answer ends at an end token of the model other than <eos>, as transformers' does."""
    asked = [request("今天", {"until": [], "max_gen_toks": 24})]
    (whole,) = theirs.generate_until(asked)
    model, tokenizer = load(saved)
    with torch.no_grad():  # in place of a piece in the middle of the answer
        piece = model.lm_head.weight[tokenizer.encode(whole)[12]]
        model.lm_head.weight[tokenizer.special["<|im_end|>"]] = 1.01 * piece
    save_model(tmp_path, model, tokenizer, end_ids=sorted(model.end_ids))
    (cut,) = adapted(tmp_path).generate_until(asked)
    assert whole.startswith(cut) and 0 < len(cut) < len(whole)
    assert reference(tmp_path).generate_until(asked) == [cut]


def test_chats_are_those_of_transformers(theirs: Any, ours: Any, made: Path) -> None:
    """Few-shot questions as turns of a chat have the same texts, ids and log-probabilities."""
    talk = [{"role": "system", "content": "一"}, {"role": "user", "content": "今天？"}]
    begun = [*talk, {"role": "assistant", "content": "我们"}]
    for history, is_new in ((talk, True), (begun, False)):
        text = ours.apply_chat_template(history, is_new)
        assert text == theirs.apply_chat_template(history, is_new)
        assert ours.tok_encode(text) == theirs.tok_encode(text)
    tasks = their_tasks(made, "cmmlu", "letter|0", our_items(made, "cmmlu", "").task)
    chat = {"apply_chat_template": True, "fewshot_as_multiturn": True}
    assert furthest(their_numbers(ours, tasks, **chat), their_numbers(theirs, tasks, **chat)) < NATS


def test_the_harness_knows_our_models_by_name(saved: Path, made: Path) -> None:
    """`babyllm` is a model of lm-evaluation-harness, with settings as its command line passes them."""
    adapted(saved)  # which makes the name known
    task = their_tasks(made, "xcopa", "text", our_items(made, "xcopa", "").task)[0]
    settings = f"pretrained={saved},dtype=float32,threads=1"
    (found,) = their_numbers("babyllm", [task], model_args=settings, device="cpu", batch_size=8).values()
    assert len(found) == 12
    with pytest.raises(UserError, match="dtype=int4: choose auto, float32"):
        their_numbers("babyllm", [task], model_args=f"pretrained={saved},dtype=int4")


def test_mistakes_are_one_line(saved: Path, tmp_path: Path, tiny: Callable[..., ModelConfig]) -> None:
    """Arguments out of range, an answer longer than the context, and chats of base models are refused."""
    with pytest.raises(UserError, match="max_length=5000: must be at least 2 and at most the model's 4096"):
        adapted(saved, max_length=5000)
    with pytest.raises(UserError, match="an answer of 9 tokens is more than the 4 that are read"):
        adapted(saved, max_length=4).loglikelihood([request("a", "龘龘龘")])
    base = save_random(tmp_path, tiny(), Tokenizer.load(saved), has_template=False)
    with pytest.raises(UserError, match="has no chat template; leave out --apply_chat_template"):
        adapted(base).apply_chat_template([{"role": "user", "content": "a"}])


def test_without_the_harness_a_line_says_so() -> None:
    """Where lm-eval is not installed, one line says how to install it."""
    code = "import sys; sys.modules['lm_eval'] = None; from babyllm.evaluate.harness.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        'lm-evaluation-harness lacks lm_eval.models: pip install "babyllm[harness]"'
    )
