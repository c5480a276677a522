"""What several files share: a tiny shape, a generated corpus, its tokenizer and tokens, a runtime on the CPU."""

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from training_fixtures import Killer, Worker, write_corpus

from babyllm.documents import Document
from babyllm.model.config import ModelConfig
from babyllm.prepare.encode import write_tokens
from babyllm.runtime import Runtime, RuntimeConfig, start
from babyllm.tokenizer import Tokenizer

# How long an example takes says more about the machine's other users than about the code.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

# `nohup pytest` and `pytest &` let signals be ignored, here and in what tests start.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# Some messages are in the language of the user; tests expect English unless they say otherwise.
os.environ["LC_ALL"] = "C.UTF-8"

# Folders of long files, which begin first so that no process is left with one at the end.
LONG = ("parallel", "machines", "faults", "training", "alignment", "runtime", "interop", "studies", "corpus")
VOCAB_SIZE = 400
CHINESE = "今天气很好我们去公园看书这本小说有意思他说明年再来北京大学的生活"
ENGLISH = ["the", "model", "reads", "one", "token", "after", "another", "and", "learns", "what", "comes", "next"]


def _text(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return "".join(rng.choices(CHINESE, k=rng.randint(3, 60))) + "。"
    return " ".join(rng.choices(ENGLISH, k=rng.randint(2, 20))) + rng.choice([".", "!\n", " 😀"])


def pytest_configure(config: pytest.Config) -> None:
    """Files are handed out in their order here; xdist would begin with those that have many tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files by their folder: long ones first."""
    tests = Path(__file__).parent
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.relative_to(tests).parts[0], len(place)))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tiny models on several threads spend their time waiting, the more so on a busy machine."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def corpus() -> list[Document]:
    """400 different short texts in Chinese and English, of two domains."""
    rng = random.Random(1)
    return [Document(text, rng.choice(["news", "reviews"])) for text in {_text(rng): None for _ in range(400)}]


@pytest.fixture(scope="session")
def tokenizer(corpus: list[Document]) -> Tokenizer:
    """400 tokens: 16 special ones, 256 bytes, the characters of the corpus and some pieces."""
    return Tokenizer.train((d.text for d in corpus), VOCAB_SIZE, n_threads=1)


@pytest.fixture(scope="session")
def token_dir(tmp_path_factory: pytest.TempPathFactory, corpus: list[Document], tokenizer: Tokenizer) -> Path:
    """The corpus as tokens, in several shards per domain, a tenth held out; not to be changed."""
    directory = tmp_path_factory.mktemp("tokens")
    write_tokens(corpus, tokenizer, directory, held_out=0.1, shard_tokens=2000)
    return directory


@pytest.fixture(scope="session")
def tiny() -> Callable[..., ModelConfig]:
    """`tiny(**changes)`: a shape of two layers that takes milliseconds."""
    base = ModelConfig(vocab_size=VOCAB_SIZE, n_layers=2, d_model=32, n_heads=4, n_kv_heads=2, max_seq_len=64)
    return lambda **changes: replace(base, **changes)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token data of two domains for runs of milliseconds; not to be changed."""
    return write_corpus(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A process that starts the ranks of runs; one for all tests, since it takes seconds to begin."""
    with Worker(tmp_path_factory.mktemp("worker")) as worker:
        yield worker


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    """One process on the CPU in float32."""
    with start(RuntimeConfig(device="cpu", dtype="float32", threads=1)) as one:
        yield one


@pytest.fixture(scope="session")
def killer() -> Killer:
    """Kills at any access to the file system."""
    return Killer()


@pytest.fixture
def one_rank() -> Iterator[None]:
    """A process group of this process alone."""
    from torch import distributed

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()
