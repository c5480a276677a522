"""Texts and tokenizers that several tests use."""

import io
import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers

ZH = "床前明月光疑是地上霜举头望低思故乡春眠不觉晓处闻啼鸟夜来风雨声花落知多少我们的世界人民大团结万岁，。？！：“”"


EN = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "return", "to", "their", "other", "worlds", "HTTP", "don't"]


CODE = [
    "def f(x):\n    if x > 10:\n        return x * 2\n",
    "\tint main() { return 0; }\r\n",
    '{"key": [1, 23, 456]}\n',
    "<p>text</p><br/>",
]


MARKED = ["</s>", "<s>x</s>", "a<|im_start|>user\nhi<|im_end|>", "<unk><pad>", "<0x0A>", "<|reserved_3|> </s>"]


HARD = [
    "",
    " ",
    "a",
    "\0",
    "nul\0 in\0\0side",
    "\n",
    "\n\n\n",
    "\r\n",
    " \r\n\t\n ",
    "  leading and trailing  ",
    "a" + " " * 33 + "the",
    "\t\tint x;\u3000全角",
    "1234567890 3.14",
    "👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽",
    "e\u0301 か\u3099 ﬁ Å \u200b\ufeff",
    "▅ █ \ue000 \U0010ffff \x85 \u2028",
    "床前明月光hello世界",
    *MARKED,
]


def corpus(n_documents: int = 300) -> list[str]:
    rng = random.Random(0)
    documents = []
    for _ in range(n_documents):
        chinese = "".join(rng.choices(ZH, k=30))
        english = " ".join(rng.choices(EN, k=20))
        documents.append(f"{chinese}\n{english} {rng.randrange(10**6)}\n\n{rng.choice(CODE)}")
    return documents


def foreign_model(documents: list[str], **options: object) -> bytes:
    """A SentencePiece model of another project; the options are those of SentencePiece."""
    writer = io.BytesIO()
    defaults = {"vocab_size": 600, "hard_vocab_limit": False, "minloglevel": 2, "num_threads": 2}
    lines = (line for document in documents for line in document.split("\n"))
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=writer, **(defaults | options))
    return writer.getvalue()


def byte_level(path: Path, special: list[str]) -> Path:
    """A byte-level BPE, trained and saved by the `tokenizers` library."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.save(str(path))
    return path


def auto(directory: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(directory)
