"""Special tokens chosen for a new vocabulary: their names, order, ids and roles, as in published vocabularies."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizer_fixtures import auto, corpus

from babyllm.commands.corpus.train_tokenizer import Flags, run
from babyllm.config import parse
from babyllm.errors import UserError
from babyllm.tokenizer import SpecialTokens, Tokenizer

CHATML = ["system", "user", "assistant", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
AFTER = SpecialTokens(first=[], last=CHATML, bos=None, eos="<|im_end|>", pad="<|endoftext|>", unk=None)
CHATGLM = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"]
APPENDED = SpecialTokens(first=["<unk>", "<s>", "</s>"], last=CHATGLM, pad="<unk>")
TALK = [f"{text} the user and his assistant eop sop @the" for text in corpus(100)]


def words(folder: Path) -> Path:
    path = folder / "words.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in TALK), encoding="utf-8")
    return path


def test_six_tokens_after_a_byte_level_vocabulary(tmp_path: Path) -> None:
    """A vocabulary of n + 6 tokens with neither bos nor unk is trained by flags, with equal ids in transformers."""
    flags = ["--type=byte_bpe", "--vocab_size=406", "--special.first=[]", f"--special.last={json.dumps(CHATML)}"]
    flags += ["--special.bos=null", "--special.unk=null", "--special.eos=<|im_end|>", "--special.pad=<|endoftext|>"]
    run(parse(Flags, [*flags, "--work.workers=1"], prog="train-tokenizer"), str(words(tmp_path)), str(tmp_path / "out"))
    tokenizer, theirs = Tokenizer.load(tmp_path / "out"), auto(tmp_path / "out")
    assert tokenizer.special == {name: 400 + i for i, name in enumerate(CHATML)}
    assert theirs.convert_tokens_to_ids(CHATML) == list(range(400, 406)) and len(theirs) == 406
    roles = (tokenizer.bos_id, tokenizer.unk_id, tokenizer.pad_id, tokenizer.eos_id)
    assert roles == (None, None, 403, 405)
    assert (theirs.bos_token_id, theirs.unk_token_id, theirs.pad_token_id, theirs.eos_token_id) == roles
    for text in (*TALK[:20], "user system", "<|im_end|>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text and max(tokenizer.encode(text)) < 400
        assert theirs(text, split_special_tokens=True)["input_ids"] == tokenizer.encode(text)
    assert theirs("<|im_start|>user\n")["input_ids"][:2] == [404, 401]


@pytest.mark.parametrize("model_type", ["bpe", "char"])
def test_tokens_appended_to_a_sentencepiece_vocabulary(model_type: str, tmp_path: Path) -> None:
    """A SentencePiece vocabulary has its usual three first, five of a wrapper after it, and unk as padding."""
    trained = Tokenizer.train(TALK, 405, model_type=model_type, special=APPENDED, hard_vocab_limit=False)  # type: ignore[arg-type]
    trained.save(tmp_path)
    theirs, n = auto(tmp_path), trained.vocab_size - 5
    (tmp_path / "model").mkdir()
    (tmp_path / "tokenizer.model").rename(tmp_path / "model" / "tokenizer.model")
    for tokenizer in (trained, Tokenizer.load(tmp_path), Tokenizer.load(tmp_path / "model")):
        ids = {"<unk>": 0, "<s>": 1, "</s>": 2} | {name: n + i for i, name in enumerate(CHATGLM)}
        assert tokenizer.special == ids
        assert (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
        assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in TALK)
        assert not set(tokenizer.special.values()) & set(tokenizer.encode(" ".join(TALK)))
    assert (trained.pad_id, theirs.pad_token_id, Tokenizer.load(tmp_path).pad_id) == (0, 0, 0)
    assert theirs.convert_tokens_to_ids(CHATGLM) == list(range(n, n + 5))


@pytest.mark.parametrize("model_type", ["bpe", "unigram", "byte_bpe", "wordpiece"])
@pytest.mark.filterwarnings("ignore:tokenizer.json may split some texts")
def test_roles_have_any_name_at_any_place(model_type: str, tmp_path: Path) -> None:
    """The order of `first` is the order of ids; a role may be anywhere in it, or after all other tokens."""
    special = SpecialTokens(["<a>", "<end>", "<?>", "<b>"], ["<begin>", "@the"], "<begin>", "<end>", None, "<?>")
    trained = Tokenizer.train(TALK, 420, model_type=model_type, special=special, symbols=["<think>"])  # type: ignore[arg-type]
    trained.save(tmp_path)
    for tokenizer in (trained, Tokenizer.load(tmp_path)):
        assert tokenizer.special == {"<a>": 0, "<end>": 1, "<?>": 2, "<b>": 3, "<begin>": 418, "@the": 419}
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id) == (418, 1, None, 2)
        assert len(tokenizer.encode("<think>")) == 1


@pytest.mark.parametrize(
    ("model_type", "change", "message"),
    [
        ("bpe", {"bos": "<gone>"}, "special.bos is '<gone>', which is neither in special.first nor in special.last"),
        ("byte_bpe", {"eos": "</s>"}, "special.eos is '</s>', .* to another name$"),
        ("byte_bpe", {"first": ["user"]}, "special: 'user' is empty, given twice"),
        ("byte_bpe", {"first": [""]}, "special: '' is empty"),
        ("bpe", {}, "special.unk must name a token of special.first"),
        ("wordpiece", {"unk": "system"}, "special.unk must name a token of special.first"),
    ],
)
def test_impossible_special_tokens_are_named(model_type: str, change: dict[str, Any], message: str) -> None:
    """A role without a token, a name given twice, and a missing unknown token are errors that name the setting."""
    with pytest.raises(UserError, match=message):
        Tokenizer.train(TALK, 420, model_type=model_type, special=replace(AFTER, **change))  # type: ignore[arg-type]


def test_a_rebuilt_vocabulary_trains_and_chats(tmp_path: Path) -> None:
    """A model with a vocabulary whose special tokens are the last ones is pretrained, fine-tuned and chats."""
    import babyllm

    data = words(tmp_path)
    Tokenizer.train(TALK, 406, model_type="byte_bpe", special=AFTER).save(tmp_path / "tokenizer")
    shape = {"model.d_model": 32, "model.n_layers": 1, "model.n_heads": 2, "model.max_seq_len": 64}
    base = {"data.tokenizer": str(tmp_path / "tokenizer"), "data.seq_len": 32, "plan.steps": 2, "runtime.device": "cpu"}
    base |= {"runtime.processes": 1}
    babyllm.pretrain(data, run_dir=tmp_path / "base", **shape, **base)
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "the cat"}]
    chats = tmp_path / "chats.jsonl"
    chats.write_text("\n".join([json.dumps({"messages": messages})] * 40), encoding="utf-8")
    small = {"plan.steps": 2, "runtime.device": "cpu", "runtime.processes": 1, "data.seq_len": 64}
    babyllm.finetune(chats, run_dir=tmp_path / "chat", init_from=tmp_path / "base", **small)
    model, tokenizer = babyllm.load(tmp_path / "chat")
    assert tokenizer.vocab_size == model.config.vocab_size == 406 and tokenizer.eos_id == 405
    assert isinstance(babyllm.load_chat(tmp_path / "chat").say("hi"), str)
