import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
import torch
from model_fixtures import Tiny
from torch import Tensor

from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.generation import Engine, Sampling, answers, completions, generate
from babyllm.generation.constraints.constraint import ANY_OBJECT, Constraint
from babyllm.generation.constraints.matcher import matcher_of
from babyllm.generation.sampling import Sampler
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

CHOICES = ["好评", "好", "差评", "a/b", "a\nb", '"\\d+"', "-x", "x y"]
WORDS = ["甲", "乙丙", "x", "é", "\U0001f600"]


@pytest.fixture(scope="module")
def byte_level(corpus: list[Document]) -> Tokenizer:
    return Tokenizer.train((document.text for document in corpus), 400, model_type="byte_bpe")


@pytest.fixture(scope="module")
def model(tiny: Tiny, tokenizer: Tokenizer) -> Transformer:
    torch.manual_seed(0)
    return Transformer(tiny(vocab_size=tokenizer.vocab_size, max_seq_len=512))


def objects() -> list[str]:
    values = itertools.product(["好", "差"], [1, 2, 10], [True, None])
    return [json.dumps({"标签": a, "n": b, "z": c}, ensure_ascii=False) for a, b, c in values]


OBJECT = {
    "type": "object",
    "properties": {
        "标签": {"enum": ["好", "差"]},
        "n": {"type": "integer", "enum": [1, 2, 10]},
        "z": {"enum": [True, None]},
    },
    "required": ["标签", "n", "z"],
    "additionalProperties": False,
}
LANGUAGES: dict[str, tuple[Constraint, list[str]]] = {
    "choices": (Constraint.of_choices(CHOICES), CHOICES),
    "regex": (
        Constraint("regex", "^(甲|乙丙|x|é|\U0001f600){1,2}[.]?$"),
        ["".join(w) + dot for n in (1, 2) for w in itertools.product(WORDS, repeat=n) for dot in ("", ".")],
    ),
    "schema": (Constraint.of_schema(OBJECT), objects()),
    "grammar": (
        Constraint("grammar", 'start: pair | "无"\npair: ("甲" | "乙") "-" %json {"enum": [1, "二"]}'),
        ["无", *(f"{a}-{b}" for a in "甲乙" for b in ("1", '"二"'))],
    ),
}


@pytest.mark.parametrize("name", LANGUAGES)
@pytest.mark.parametrize("kind", ["sentencepiece", "byte_level"])
def test_exactly_the_tokens_that_some_answer_goes_on_with_are_allowed(
    name: str, kind: str, tokenizer: Tokenizer, byte_level: Tokenizer
) -> None:
    """In languages that can be listed, masks are those of a comparison with all answers, whatever tokens they cross."""
    chosen = tokenizer if kind == "sentencepiece" else byte_level
    constraint, texts = LANGUAGES[name]
    whole = [text.encode() for text in texts]
    names = set(chosen.special.values())
    pieces = [b"" if i in names else chosen.token_bytes(i) for i in range(chosen.vocab_size)]
    rng, seen = random.Random(1), set[bytes]()
    for _ in range(60):
        matcher, written = matcher_of(constraint, chosen, [chosen.eos_id], chosen.vocab_size + 3), b""
        while True:
            left = [text[len(written) :] for text in whole if text.startswith(written)]
            expected = {i for i, piece in enumerate(pieces) if piece and any(rest.startswith(piece) for rest in left)}
            expected |= {chosen.eos_id} if b"" in left else set()
            allowed = set(matcher.allowed().nonzero().flatten().tolist())
            assert allowed == expected
            token = rng.choice(sorted(allowed))
            matcher.accept(token)
            if token == chosen.eos_id:
                break
            written += pieces[token]
        assert written in whole
        seen.add(written)
    assert len(seen) > 3


def schema_of(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """A random schema whose answers are bounded."""
    kinds = ["string", "integer", "boolean", "enum", "const", "pattern", "null"]
    kind = rng.choice(kinds if depth > 2 else [*kinds, "object", "object", "array", "anyOf"])
    if kind == "object":
        names = rng.sample(["名字", "年龄", "id", "标签 1", 'say "hi"', "a\\b", "tags", "e\u0301"], rng.randint(1, 4))
        inner = {name: schema_of(rng, depth + 1) for name in names}
        required = rng.sample(names, rng.randint(0, len(names)))
        others: dict[str, Any] = {"additionalProperties": False} if rng.random() < 0.5 else {}
        return {"type": "object", "properties": inner, "required": required, **others}
    if kind == "array":
        return {"type": "array", "items": schema_of(rng, depth + 1), "minItems": rng.randint(0, 1), "maxItems": 2}
    if kind == "anyOf":
        return {"anyOf": [schema_of(rng, depth + 1), {"type": "null"}]}
    return {
        "string": {"type": "string", "minLength": rng.randint(0, 2), "maxLength": rng.randint(2, 6)},
        "integer": {"type": "integer", "minimum": rng.randint(-99, 0), "maximum": rng.randint(1, 999)},
        "boolean": {"type": "boolean"},
        "enum": {"enum": rng.sample(["红", "绿", "blue", 1, 2.5, None, True, {"k": [1]}], 3)},
        "const": {"const": rng.choice(["常量", 7, [1, "二"]])},
        "pattern": {"type": "string", "pattern": rng.choice(["^[A-Z]{2}-[0-9]{3}$", "^(甲|乙){1,3}$", "^1[0-9]{4}$"])},
        "null": {"type": "null"},
    }[kind]


def test_answers_fit_random_schemas(model: Transformer, tokenizer: Tokenizer) -> None:
    """Of a model that knows nothing, at temperature 1.5, 200 of 200 answers parse at once and fit their schemas."""
    schemas = [schema_of(random.Random(seed)) for seed in range(200)]
    requests = [
        ([tokenizer.begin_id], Sampling(500, temperature=1.5, top_k=None, seed=i, constraint=Constraint.of_schema(one)))
        for i, one in enumerate(schemas)
    ]
    for schema, answer in zip(schemas, answers(model, tokenizer, requests, (tokenizer.eos_id,)), strict=True):
        assert answer.finish == "stop", schema
        jsonschema.validate(json.loads(answer.text), schema)


def test_a_lead_is_written_before_an_answer_and_left_out(model: Transformer, tokenizer: Tokenizer) -> None:
    """The blank that a template puts before answers precedes a constrained one, even one that begins with a blank."""
    lead, choices = " ", ["甲", " 甲", "x y"]
    for constraint in (Constraint.of_choices(choices), Constraint("grammar", 'start: "甲" | " 甲" | "x y"')):
        sampling = Sampling(20, temperature=1.5, top_k=None, constraint=constraint)
        requests = [([tokenizer.begin_id], replace(sampling, seed=seed)) for seed in range(20)]
        found = completions(model, tokenizer, requests, (tokenizer.eos_id,), lead=lead)
        assert {answer.text for answer in found} == {*choices}
        for answer in found:
            ids = [token.id for token in answer.tokens if token.id != tokenizer.eos_id]
            assert tokenizer.decode(ids) == lead + answer.text


def test_unbounded_answers_are_valid_or_cut(model: Transformer, tokenizer: Tokenizer) -> None:
    """An answer without a bound ends as JSON or at its limit."""
    anything = Constraint.of_schema(ANY_OBJECT)
    requests = [([tokenizer.begin_id], Sampling(60, temperature=1.5, seed=i, constraint=anything)) for i in range(20)]
    for answer in answers(model, tokenizer, requests, (tokenizer.eos_id,)):
        assert answer.finish == "length" or isinstance(json.loads(answer.text), dict)


def test_a_seed_draws_the_same_beside_others(model: Transformer, tokenizer: Tokenizer) -> None:
    """A constrained answer is the same alone and beside others, constrained or not."""

    def request(seed: int, constraint: Constraint | None) -> tuple[list[int], Sampling]:
        return [tokenizer.begin_id], Sampling(40, temperature=1.2, seed=seed, constraint=constraint)

    mixed = [request(i, LANGUAGES["regex"][0] if i % 2 else None) for i in range(8)]
    together = answers(model, tokenizer, mixed, (tokenizer.eos_id,))
    alone = [answers(model, tokenizer, [one], (tokenizer.eos_id,))[0] for one in mixed]
    assert [one.text for one in together] == [one.text for one in alone]


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (Constraint.of_schema({"type": "string", "minLength": 5, "maxLength": 2}), "Unsatisfiable"),
        (Constraint.of_schema({"allOf": [{"type": "string"}, {"type": "integer"}]}), "Unsatisfiable"),
        (Constraint.of_schema({"type": "nonsense"}), "nonsense"),
        (Constraint.of_schema({"type": "object", "dependentSchemas": {}}), "dependentSchemas"),
        (Constraint("regex", "(a|b"), "unclosed group"),
        (Constraint("regex", "a(?=b)"), "look-around"),
        (Constraint("grammar", "start: foo"), "foo"),
    ],
)
def test_what_cannot_be_met_is_refused_in_one_line(
    constraint: Constraint, message: str, model: Transformer, tokenizer: Tokenizer
) -> None:
    """A constraint that is wrong, cannot be met or is too large is one line, before anything is read."""
    engine = Engine(model, slots=1, tokenizer=tokenizer)
    with pytest.raises(UserError, match=message) as found:
        engine.submit([1], Sampling(constraint=constraint), [0])
    assert "\n" not in str(found.value) and len(str(found.value)) < 400


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("json_schema", "{", "not JSON"),
        ("json_schema", "[1]", "not a JSON object"),
        ("choice", "[]", "at least one"),
        ("choice", '["a", ""]', "not empty"),
        ("regex", "a" * 300_000, "300,000 characters"),
        ("nonsense", "a", "must be one of"),
    ],
)
def test_constraints_that_are_none(kind: Any, text: str, message: str) -> None:
    """A text that is not of its kind is refused when the constraint is made."""
    with pytest.raises(UserError, match=message):
        Constraint(kind, text)


def test_a_constraint_that_the_vocabulary_cannot_spell_ends_the_answer(
    model: Transformer, tokenizer: Tokenizer
) -> None:
    """Where no token fits, the answer ends with an error that says so; others go on."""
    engine = Engine(model, slots=2, tokenizer=tokenizer)
    broken = engine.submit([1], Sampling(8, constraint=Constraint.of_choices(["ab"])), [0])
    other = engine.submit([1], Sampling(3, temperature=0))
    engine._waiting[0].sampler._matcher._matcher.consume_token(tokenizer.encode("x")[0])  # type: ignore[union-attr]
    events = [event for _ in range(8) for event in engine.step()]
    assert [event.error for event in events if event.number == broken and event.finish] != [""]
    assert [event.finish for event in events if event.number == other and event.finish] == ["length"]


def drawn(sampling: Sampling, rows: Sequence[Tensor]) -> list[int]:
    sampler = Sampler(sampling, [0, 1], len(rows[0]))
    return [sampler.draw(row).id for row in rows]


@pytest.mark.parametrize(("frequency", "presence"), [(0.7, 0.0), (0.0, 1.1), (0.4, -0.6), (-0.3, 0.5)])
def test_penalties_and_biases_equal_a_direct_computation(frequency: float, presence: float) -> None:
    """Scores are lowered by the count and by the presence of a token in the answer, and raised by biases."""
    generator = torch.Generator().manual_seed(0)
    rows = list(torch.randn(60, 12, generator=generator))
    bias = {3: 0.8, 7: -1.5}
    expected, counts = [], torch.zeros(12)
    for row in rows:
        scores = row - frequency * counts - presence * (counts > 0)
        for token, value in bias.items():
            scores[token] += value
        expected.append(int(scores.argmax()))
        counts[expected[-1]] += 1
    sampling = Sampling(
        temperature=0, frequency_penalty=frequency, presence_penalty=presence, logit_bias=tuple(bias.items())
    )
    assert drawn(sampling, rows) == expected
    assert len(set(expected)) > 3


def test_log_probabilities_stay_the_models_own(model: Transformer, tokenizer: Tokenizer) -> None:
    """A token's log-probability is that of the model, and `drawn` that of the constrained draw."""
    sampling = Sampling(
        8, temperature=1, top_k=None, seed=1, logprobs=0, constraint=Constraint.of_choices(["甲", "乙"])
    )
    (answer,) = answers(model, tokenizer, [([tokenizer.begin_id], sampling)], (tokenizer.eos_id,))
    assert answer.text in ("甲", "乙")
    first = answer.tokens[0]
    ids, targets = torch.tensor([[tokenizer.begin_id]]), torch.tensor([[first.id]])
    nats = float(model.eval()(ids, targets).detach())
    assert first.logprob == pytest.approx(-nats, abs=1e-4)
    assert first.drawn is not None and first.drawn > first.logprob


@pytest.mark.parametrize("name", ["frequency_penalty", "presence_penalty", "logit_bias", "constraint"])
def test_beams_refuse_what_they_have_not(name: str, model: Transformer, tokenizer: Tokenizer) -> None:
    """Beam search has no penalties, biases and constraints, and says so in one line."""
    value = {"logit_bias": ((1, 1.0),), "constraint": LANGUAGES["regex"][0]}.get(name, 0.5)
    with pytest.raises(UserError, match=f"{name}: beam search"):
        generate(model, tokenizer, "a", num_beams=2, **{name: value})


def test_a_length_holds_prompt_and_text(model: Transformer, tokenizer: Tokenizer) -> None:
    """`max_length` counts the prompt; a prompt that fills it is refused."""
    n = len(tokenizer.encode("ab")) + 1
    text = generate(model, tokenizer, "ab", max_length=n + 3, temperature=0, constraint=Constraint("regex", "[甲乙]*"))
    assert len(text.encode()) <= 3 * max(map(len, map(tokenizer.token_bytes, range(tokenizer.vocab_size))))
    with pytest.raises(UserError, match="max_length"):
        generate(model, tokenizer, "ab", max_length=n)


def test_masks_are_given_as_bits_too(tokenizer: Tokenizer) -> None:
    """Bits and bools are the same, whatever the number of scores, and of several end tokens all are allowed or none."""
    for more in (0, 3, 40):
        n, ends = tokenizer.vocab_size + more, {tokenizer.eos_id, 7, tokenizer.vocab_size + more - 1}
        matcher = matcher_of(Constraint.of_choices(["a", "ab"]), tokenizer, ends, n)
        for token, can_end in zip([*tokenizer.encode("a")[-1:], None], (False, True), strict=True):
            bits, mask = matcher.packed().copy(), matcher.allowed()
            assert len(bits) == -(-n // 8) and len(mask) == n and mask.any()
            assert [bool(bits[i // 8] >> i % 8 & 1) for i in range(n)] == mask.tolist()
            assert {i for i in ends if mask[i]} == (ends if can_end else set())
            if token is not None:
                matcher.accept(token)
