"""The clients of lm-evaluation-harness for servers, on a real server of the same model."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness_fixtures import adapted, furthest, our_items, request, save_random, their_numbers, their_tasks, write_made
from serve_fixtures import CHAT, COMPLETE, NAME, Server, load_of, serving

from babyllm.loading import load_chat_model
from babyllm.model.config import ModelConfig
from babyllm.tokenizer import Tokenizer

pytest.importorskip("lm_eval")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the libraries of lm-eval

NATS = 1e-3
UNTIL = {"until": [], "max_gen_toks": 16}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., ModelConfig], tokenizer: Tokenizer) -> Path:
    config = tiny(max_seq_len=2047, tie_embeddings=False)
    return save_random(tmp_path_factory.mktemp("model"), config, tokenizer)


@pytest.fixture(scope="module")
def ours(saved: Path) -> Any:
    return adapted(saved)


@pytest.fixture(scope="module")
def server(saved: Path) -> Iterator[Server]:
    chat = load_chat_model(saved)
    with serving(load_of(chat.model, chat.tokenizer, chat.template)) as server:
        yield server


def client(server: Server, saved: Path, **more: Any) -> Any:
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    begin = Tokenizer.load(saved).begin_id
    place = {"base_url": server.url + COMPLETE, "model": NAME, "tokenizer": str(saved)}
    return LocalCompletionsAPI(**place, tokenizer_backend="huggingface", custom_prefix_token_id=begin, **more)


@pytest.mark.parametrize("more", [{}, {"batch_size": 8}, {"num_concurrent": 4}], ids=str)
def test_local_completions_has_our_numbers(
    server: Server, saved: Path, ours: Any, tmp_path: Path, more: dict[str, Any]
) -> None:
    """Scores of options by a server equal those of the model itself, however many requests are sent together."""
    write_made(tmp_path)
    tasks = their_tasks(tmp_path, "xcopa", "text", our_items(tmp_path, "xcopa", "").task)
    asked, expected = their_numbers(client(server, saved, **more), tasks), their_numbers(ours, tasks)
    assert furthest(asked, expected) < NATS
    assert [each.scores for each in asked["test.zh"]] == [each.scores for each in expected["test.zh"]]


def test_local_completions_writes_our_answers(server: Server, saved: Path, ours: Any) -> None:
    """Greedy answers with stop strings, and rolling scores, are those of the model itself."""
    asked = [request(prompt, UNTIL) for prompt in ("今天", "the model reads")]
    whole = ours.generate_until(asked)
    stopped = [request(each.args[0], UNTIL | {"until": [text[6:8]]}) for each, text in zip(asked, whole, strict=True)]
    remote = client(server, saved)
    assert remote.generate_until(asked) == whole
    assert remote.generate_until(stopped) == ours.generate_until(stopped) != whole
    texts = [request(text) for text in ("今天天气很好", "the model")]
    expected = ours.loglikelihood_rolling(texts)
    assert remote.loglikelihood_rolling(texts) == pytest.approx(expected, abs=NATS)


def test_local_chat_completions_writes_our_answers(server: Server, ours: Any) -> None:
    """Answers in a chat are those that the model writes after its own chat template."""
    from lm_eval.models.openai_completions import LocalChatCompletion

    remote = LocalChatCompletion(base_url=server.url + CHAT, model=NAME)
    talks = [[{"role": "user", "content": text}] for text in ("今天？", "the model reads")]
    asked = [request(remote.apply_chat_template(talk), UNTIL) for talk in talks]
    expected = ours.generate_until([request(ours.apply_chat_template(talk), UNTIL) for talk in talks])
    assert remote.generate_until(asked) == expected
