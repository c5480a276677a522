"""Drawing text: the distribution drawn from, where it ends, and that characters come whole."""

import inspect
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_fixtures import chain, decisive

import babyllm
from babyllm.chat.load import load_template
from babyllm.errors import UserError
from babyllm.generation import AnswerText, Sampling, answers, beam_search, generate, generate_ids, stream, text_pieces
from babyllm.generation.decoder import Decoder
from babyllm.interop.huggingface import save_model
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

Tiny = Callable[..., ModelConfig]


def model_of(config: ModelConfig) -> Transformer:
    return decisive(config)


def constant(config: ModelConfig, first: list[float]) -> Transformer:
    """A model with these logits for the first ids after any text, and hardly any chance to the others."""
    model = chain(config, [])
    with torch.no_grad():
        size = model.norm(model.embed_tokens.weight[0])[0]
        model.lm_head.weight[:, 0] = -100.0
        model.lm_head.weight[: len(first), 0] = torch.tensor(first) / size
    return model


def test_greedy_takes_the_most_probable_token_each_time(tiny: Tiny) -> None:
    """At temperature 0 every id is the argmax of a plain pass over all that came before it."""
    model = model_of(tiny())
    ids = [5, 6, 7]
    for _ in range(20):
        ids.append(int(model.logits(torch.tensor([ids]))[0, -1].argmax()))
    assert list(generate_ids(model, ids[:3], Sampling(max_new_tokens=20, temperature=0))) == ids[3:]
    assert len(set(ids[3:])) > 3, "the text says something"


def test_a_seed_repeats_the_text(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """Equal seeds give equal texts and leave torch's own generator alone; other seeds and no seed give others."""
    model = model_of(tiny())
    torch.manual_seed(7)
    before = torch.get_rng_state()
    texts = [generate(model, tokenizer, "今天", max_new_tokens=20, seed=seed) for seed in (1, 1, 2, None, None)]
    assert texts[0] == texts[1] and len(set(texts[1:])) == 4
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_follow_the_distribution(tiny: Tiny) -> None:
    """Tokens come as often as the scaled and filtered probabilities say, and what is filtered never."""
    n, logits = 1000, [2.0, 1.5, 1.0, 0.5, 0.0]
    model = constant(tiny(max_seq_len=n + 1), logits)
    seen = Counter(generate_ids(model, [9], Sampling(max_new_tokens=n, temperature=0.7, top_k=4, seed=3)))
    weights = [math.exp(value / 0.7) for value in logits[:4]]
    expected = [n * weight / sum(weights) for weight in weights]
    assert seen.total() == n and seen.keys() == {0, 1, 2, 3}
    assert sum((seen[i] - e) ** 2 / e for i, e in enumerate(expected)) < 16.3  # one in a thousand exceeds it


@pytest.mark.parametrize("told_by", ["generation_config.json", "config.json", "the template", "nothing"])
def test_every_end_that_a_model_names_ends_its_texts(
    tmp_path: Path, tiny: Tiny, tokenizer: Tokenizer, told_by: str
) -> None:
    """Ids that files list and the template's end of a turn end drawn, streamed and searched texts, as <eos> does."""
    template = load_template("chatml", tokenizer)
    tokenizer = template.tokenizer
    end = tokenizer.special["<|im_end|>"]
    save_model(tmp_path, chain(tiny(tie_embeddings=False), [*tokenizer.encode("今天气"), end]), tokenizer)
    if told_by == "the template":
        tokenizer.save(tmp_path, chat_template=template.source)
    elif told_by != "nothing":
        file = tmp_path / told_by
        config = json.loads(file.read_text()) | {"eos_token_id": [tokenizer.eos_id, end]}
        file.write_text(json.dumps(config))
    model, tokenizer = babyllm.load(tmp_path)
    asked = {"max_new_tokens": 9, "temperature": 0}
    ids = [tokenizer.eos_id, *tokenizer.encode("x")]
    drawn = answers(model, tokenizer, [(ids, Sampling(**asked))], ())[0]
    texts = {
        generate(model, tokenizer, "x", **asked),
        "".join(stream(model, tokenizer, "x", **asked)),
        tokenizer.decode(generate_ids(model, ids, Sampling(**asked))),
        drawn.text,
    }
    (text,) = texts
    assert text == "今天气" if told_by != "nothing" else text.startswith("今天气今")
    assert drawn.finish == ("length" if told_by == "nothing" else "stop")
    best = beam_search(model, ids, num_beams=2, max_new_tokens=9)[0].ids
    assert (end in best) == (told_by == "nothing")


TEXT = "今天😀 é\n龘👩‍👩‍👧。x"


def test_stream_gives_whole_characters(tokenizer: Tokenizer) -> None:
    """A character spelled in several tokens comes in one piece; the pieces are the text."""
    ids = tokenizer.encode(TEXT)
    assert len(ids) > len(TEXT), "some characters are spread over tokens"
    pieces = list(text_pieces(tokenizer, ids))
    assert "".join(pieces) == TEXT and len(pieces) > 5
    assert all(pieces) and "\ufffd" not in "".join(pieces)


def test_the_streamed_text_is_the_whole_text(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """`stream` yields in pieces what `generate` returns at once: what the model says up to its <eos>."""
    ids = tokenizer.encode("今👩天龘x。")
    model = chain(tiny(), [*ids, tokenizer.eos_id])
    assert list(stream(model, tokenizer, "", temperature=0)) == ["今", "👩", "天", "龘", "x", "。"]
    assert generate(model, tokenizer, "", temperature=0) == "今👩天龘x。"


def test_a_character_cut_off_is_marked(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """Where the limit cuts a character, or a model writes broken bytes, one mark stands for it and the rest is kept."""
    ids = tokenizer.encode("今龘")
    pieces = stream(chain(tiny(), ids), tokenizer, "", max_new_tokens=len(ids) - 1, temperature=0)
    assert list(pieces) == ["今", "\ufffd"]
    broken = [*tokenizer.encode("龘")[:-1], *tokenizer.encode("天"), tokenizer.eos_id]
    assert generate(chain(tiny(), broken), tokenizer, temperature=0) == "\ufffd天"


def shown(tokenizer: Tokenizer, text: str, stop: list[str]) -> tuple[list[str], bool]:
    """What comes with each token of a text and at its end; whether it was stopped."""
    answer = AnswerText(tokenizer, stop)
    pieces = [answer.add(token) for token in tokenizer.encode(text)]
    return [*pieces, answer.end()], answer.is_stopped


@given(
    text=st.text("ab\n今龘😀", max_size=12),
    stop=st.lists(st.text("ab\n今龘😀", min_size=1, max_size=4), max_size=3),
)
def test_a_stop_string_ends_the_text_wherever_tokens_divide_it(
    tokenizer: Tokenizer, text: str, stop: list[str]
) -> None:
    """The text ends before the stop string that is complete first; no part of it is shown, all before it is."""
    ends = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    pieces, is_stopped = shown(tokenizer, text, stop)
    assert "".join(pieces) == (text[: min(ends)[1]] if ends else text)
    assert is_stopped == bool(ends)


def test_only_what_may_begin_a_stop_string_is_held_back(tokenizer: Tokenizer) -> None:
    """Text is shown as soon as no stop string can begin in it, and held text when the answer ends otherwise."""
    assert shown(tokenizer, "今q龘", ["q天天"]) == (["今", "", "", "", "q龘", ""], False)
    assert shown(tokenizer, "今q天", ["q天天"]) == (["今", "", "", "q天"], False)
    assert shown(tokenizer, "今q天天今", ["q天天"]) == (["今", "", "", "", "", ""], True)


def test_stop_strings_end_answers(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """`generate` and `stream` stop at a stop string that spans tokens, as if the model had ended there."""
    model = chain(tiny(), tokenizer.encode("今qz天"))
    assert generate(model, tokenizer, "", temperature=0, stop=["zq", "qz"]) == "今"
    assert generate(model, tokenizer, "", temperature=0, stop="qz") == "今"
    assert list(stream(model, tokenizer, "", temperature=0, stop=["z天"])) == ["今", "q"]
    whole = generate(model, tokenizer, "", temperature=0, max_new_tokens=8)
    assert whole == "今qz天今qz天"


def test_several_prompts_and_samples(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """Each of several prompts gets the text it gets alone; the samples of a prompt are adjacent and differ."""
    model = model_of(tiny())
    prompts = ["今天", "the model reads", "", "x" * 30]
    alone = [generate(model, tokenizer, prompt, seed=5, max_new_tokens=10) for prompt in prompts]
    assert generate(model, tokenizer, prompts, seed=5, max_new_tokens=10) == alone
    samples = generate(model, tokenizer, prompts, n=6, seed=5, max_new_tokens=10)
    assert len(samples) == 24 and samples[::6] == alone
    assert len(set(samples[:6])) == 6
    assert samples[6:12] == generate(model, tokenizer, "the model reads", n=6, seed=5, max_new_tokens=10)
    assert generate(model, tokenizer, ["今天"], seed=5, max_new_tokens=10) == alone[:1]
    assert generate(model, tokenizer, []) == []
    with pytest.raises(UserError, match="n=0"):
        generate(model, tokenizer, "x", n=0)


def test_special_tokens_are_no_text(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """A special token in the middle has no text and ends nothing."""
    start = tokenizer.special["<|im_start|>"]
    model = chain(tiny(), [*tokenizer.encode("今"), start, *tokenizer.encode("天"), tokenizer.eos_id])
    assert generate(model, tokenizer, temperature=0) == "今天"


def test_eos_ends_the_text(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """The eos id is not given out and nothing follows it; without one the limit ends the text."""
    model = chain(tiny(), [20, 21, tokenizer.eos_id, 22])
    assert list(generate_ids(model, [5], Sampling(temperature=0), (tokenizer.eos_id,))) == [20, 21]
    assert list(generate_ids(model, [5], Sampling(temperature=0), {21, 22})) == [20]
    assert list(generate_ids(model, [5], Sampling(max_new_tokens=4, temperature=0))) == [20, 21, tokenizer.eos_id, 22]
    assert list(generate_ids(model, [5, 6, 7], Sampling(max_new_tokens=0))) == []
    assert generate(model, tokenizer, "今天", max_new_tokens=0, stop=None) == ""


def test_the_prompt_begins_a_document(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """A text is read after one <eos>, as documents are in training, and nothing else is added to it."""
    model = model_of(tiny())
    ids = list(
        generate_ids(
            model, [tokenizer.eos_id, *tokenizer.encode("今天 the")], Sampling(max_new_tokens=8, temperature=0)
        )
    )
    assert tokenizer.eos_id not in ids
    text = b"".join(tokenizer.token_bytes(i) for i in ids).decode(errors="replace")
    assert generate(model, tokenizer, "今天 the", max_new_tokens=8, temperature=0) == text


def test_the_context_is_a_limit(tiny: Tiny) -> None:
    """Prompt and text together fill at most the model's context; a prompt that leaves no room is refused."""
    model = model_of(tiny(max_seq_len=16))
    assert len(list(generate_ids(model, [5] * 15, Sampling(max_new_tokens=100)))) == 1
    assert len(list(generate_ids(model, [5] * 4, Sampling(max_new_tokens=100)))) == 12
    with pytest.raises(UserError, match="a prompt of 16 tokens leaves no room in the context of 16"):
        next(generate_ids(model, [5] * 16, Sampling()))
    with pytest.raises(UserError, match="a prompt of 0 tokens"):
        next(generate_ids(model, [], Sampling()))


@pytest.mark.parametrize(
    "settings", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": -0.1}, {"top_p": 1.5}, {"max_new_tokens": -1}]
)
def test_settings_out_of_range_are_refused(tiny: Tiny, tokenizer: Tokenizer, settings: dict[str, float]) -> None:
    """A temperature below 0, nothing kept or a negative length is refused."""
    with pytest.raises(UserError, match=next(iter(settings))):
        generate(model_of(tiny()), tokenizer, "x", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("is_training", [False, True])
def test_generation_leaves_the_model_as_it_was(tiny: Tiny, is_training: bool) -> None:
    """A model in training is read without dropout and is in training again afterwards, also when the reader stops."""
    model = model_of(tiny(dropout=0.5))
    expected = list(generate_ids(model, [5, 6], Sampling(max_new_tokens=10, temperature=0)))
    model.train(is_training)
    assert list(generate_ids(model, [5, 6], Sampling(max_new_tokens=10, temperature=0))) == expected
    assert model.training == is_training
    ids = generate_ids(model, [5, 6], Sampling(max_new_tokens=10, temperature=0))
    next(ids)
    ids.close()  # type: ignore[attr-defined]
    assert model.training == is_training
    assert all(p.grad is None for p in model.parameters()) and torch.is_grad_enabled()


def test_generation_in_16_bits(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """Under autocast keys and values are kept in 16 bits, and the text is about as probable as without."""
    model = model_of(tiny())
    with torch.autocast("cpu", torch.bfloat16):
        assert generate(model, tokenizer, "今天", max_new_tokens=10, seed=1)
        decoder = Decoder(model, 1, 20)
    ids = torch.randint(0, 400, (1, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        parts = torch.cat([decoder.read_all(ids[:, a:b], 0, [a]) for a, b in ((0, 8), (8, 9), (9, 20))], 1)
    assert decoder.dtype == torch.bfloat16
    exact = model.logits(ids)
    assert torch.nn.functional.cosine_similarity(parts, exact, dim=-1).min() > 0.99


def test_the_public_name(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """`babyllm.generate` is this function, whose errors name arguments there."""
    assert inspect.unwrap(babyllm.generate) is generate


@pytest.mark.parametrize("lead", ["今天", "今", "x", ""])
def test_the_lead_of_an_answer_is_left_out(tokenizer: Tokenizer, lead: str) -> None:
    """What a template puts before an answer is not part of its text, in however many tokens it comes."""
    ids = tokenizer.encode("今天气")
    pieces = list(text_pieces(tokenizer, ids, lead=lead))
    assert "".join(pieces) == "今天气".removeprefix(lead) and all(pieces)
    assert "".join(text_pieces(tokenizer, ids[:1], lead="今天气很好")) == tokenizer.decode(ids[:1])


def test_seeds_of_either_sign_differ(tiny: Tiny) -> None:
    """A negative seed is a seed of its own."""
    model = model_of(tiny())
    one, other = (list(generate_ids(model, [5], Sampling(seed=seed, max_new_tokens=20))) for seed in (7, -7))
    assert one != other
    assert other == list(generate_ids(model, [5], Sampling(seed=-7, max_new_tokens=20)))
