"""Continuous batching: every request's answer is the one it gets alone, whatever runs beside it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_fixtures import GREEDY, Answers, is_greedy, model_of, plain, random_prompt
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from babyllm.errors import UserError
from babyllm.generation import Engine, Sampling, beam_search, generate_ids
from babyllm.model.adapt.lora import LoraConfig, add_lora
from babyllm.model.config import ModelConfig, RopeScaling
from babyllm.model.transformer import Transformer

Tiny = Callable[..., ModelConfig]


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Transformer:
    return model_of(tiny())


def beam(model: Transformer, prompt: Sequence[int], sampling: Sampling) -> list[object]:
    return list(beam_search(model, prompt, num_beams=2, max_new_tokens=sampling.max_new_tokens))


REQUEST = st.tuples(
    st.integers(1, 50),  # length of the prompt
    st.integers(0, 20),  # tokens of the answer, at most
    st.integers(0, 3),  # steps before the next request
    st.none() | st.integers(0, 6),  # steps until it is cancelled
)


@settings(max_examples=25)
@given(
    requests=st.lists(REQUEST, min_size=1, max_size=8),
    slots=st.integers(1, 6),
    chunk=st.sampled_from([1, 2, 7, 16, 33, 256]),  # 33 tokens pass one layer in a step
    seed=st.integers(0, 1000),
)
def test_every_answer_is_that_of_the_plain_pass(
    model: Transformer, requests: list[tuple[int, int, int, int | None]], slots: int, chunk: int, seed: int
) -> None:
    """Greedy answers equal the plain pass token for token: joined late, beside others, cancelled ones, any chunk."""
    answers = Answers(Engine(model, slots=slots, prefill_chunk=chunk))
    asked, leave, now = {}, {}, 0
    for i, (length, n, pause, patience) in enumerate(requests):
        prompt = random_prompt(length, seed + i)
        end = prompt[0]
        number = answers.submit(prompt, replace(GREEDY, max_new_tokens=n), {end})
        asked[number] = (prompt, n, end)
        if patience is not None:
            leave[number] = now + patience
        for _ in range(pause):
            for gone in [number for number, when in leave.items() if when == now]:
                answers.engine.cancel(gone)
            answers.step()
            now += 1
    answers.finished()
    assert answers.engine.n_running == answers.engine.n_waiting == 0
    for number, (prompt, n, end) in asked.items():
        ids, finish = answers.ids(number), answers.finish.get(number)
        assert end not in ids and is_greedy(model, prompt, [*ids, *([end] if finish == "stop" else [])])
        if finish == "length":
            assert len(ids) == min(n, model.config.max_seq_len - len(prompt))
        else:
            assert finish == "stop" or number in leave


SHAPES = {
    "plain heads": {"n_kv_heads": 4},
    "one kv head": {"n_kv_heads": 1},
    "tied": {"tie_embeddings": True},
    "linear": {"rope_scaling": RopeScaling("linear", 4.0)},
    "llama3": {"rope_scaling": RopeScaling("llama3", 8.0, 16)},
    "yarn": {"rope_scaling": RopeScaling("yarn", 4.0, 16)},
    "wide": {"d_model": 64, "n_heads": 2, "n_kv_heads": 1, "d_ff": 40},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_decoded_as_it_is_trained(tiny: Tiny, shape: str) -> None:
    """Kinds of heads, tied embeddings and each stretched rotation give the plain pass's answers and probabilities."""
    model = model_of(tiny(**SHAPES[shape]))
    answers = Answers(Engine(model, slots=2, prefill_chunk=5))
    prompts = [random_prompt(length, length) for length in (1, 12, 30)]
    numbers = [answers.submit(prompt, replace(GREEDY, logprobs=2)) for prompt in prompts]
    answers.finished()
    for number, prompt in zip(numbers, prompts, strict=True):
        ids = answers.ids(number)
        assert ids == plain(model, prompt, 12) and len(set(ids)) > 2
        exact = model.logits(torch.tensor([[*prompt, *ids]]))[0, len(prompt) - 1 : -1].log_softmax(-1)
        for token, row in zip(answers.tokens[number], exact, strict=True):
            best = row.topk(2)
            assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-4)
            assert [i for i, _ in token.top] == best.indices.tolist()
            assert [value for _, value in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_an_adapter_is_read_with_its_base(tiny: Tiny) -> None:
    """A model with low-rank updates answers as its plain pass does."""
    model = model_of(tiny())
    add_lora(model, LoraConfig(rank=4))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    answers = Answers(Engine(model))
    number = answers.submit([5, 6, 7])
    assert answers.finished().ids(number) == plain(model, [5, 6, 7], 12)


def test_a_seeded_request_draws_the_same_beside_others(model: Transformer) -> None:
    """The draws of a seeded request do not depend on what runs beside it, nor on other requests' draws."""
    sampling = Sampling(temperature=1.5, top_k=None, min_p=0.001, seed=3, max_new_tokens=20)
    alone = Answers(Engine(model))
    number = alone.submit([5, 6], sampling)
    expected = alone.finished().ids(number)
    answers = Answers(Engine(model, slots=3, prefill_chunk=8))
    answers.submit(random_prompt(30, 1), replace(sampling, seed=None))
    answers.step()
    same = [answers.submit([5, 6], sampling) for _ in range(2)]
    other = answers.submit([5, 6], replace(sampling, seed=4))
    answers.finished()
    assert [answers.ids(number) for number in same] == [expected] * 2
    assert answers.ids(other) != expected


def test_the_end_of_an_answer(model: Transformer) -> None:
    """A token that ends an answer is not given out and says "stop"; the limit and the context's end say "length"."""
    ids = plain(model, [5, 6], 12)
    answers = Answers(Engine(model, context=16))
    stopped = answers.submit([5, 6], ends={ids[3]})
    limited = answers.submit([5, 6], replace(GREEDY, max_new_tokens=3))
    filled = answers.submit([5] * 14)
    nothing = answers.submit([5, 6], replace(GREEDY, max_new_tokens=0))
    answers.finished()
    assert answers.ids(stopped) == ids[: ids.index(ids[3])] and answers.finish[stopped] == "stop"
    assert answers.ids(limited) == ids[:3] and answers.finish[limited] == "length"
    assert len(answers.ids(filled)) == 2 and answers.finish[filled] == "length"
    assert answers.ids(nothing) == [] and answers.finish[nothing] == "length"


def test_requests_wait_for_a_slot_and_cancelled_ones_free_it(model: Transformer) -> None:
    """At most `slots` run, in the order they came; cancelling one, wherever it is, lets the next one in."""
    engine = Engine(model, slots=2, prefill_chunk=4)
    assert engine.is_idle and engine.step() == []
    answers = Answers(engine)
    prompts = [random_prompt(length, i) for i, length in enumerate((2, 20, 3, 3))]
    running, long, waiting, last = map(answers.submit, prompts)
    assert (engine.n_running, engine.n_waiting) == (0, 4)
    answers.step()
    answers.step()
    assert (engine.n_running, engine.n_waiting) == (2, 2)
    for number in (waiting, long, 99):  # in the queue, being read, unknown
        engine.cancel(number)
    assert (engine.n_running, engine.n_waiting) == (1, 1)
    answers.step()
    assert (engine.n_running, engine.n_waiting) == (2, 0)
    engine.cancel(running)
    assert engine.n_running == 1 and not engine.is_idle
    answers.finished()
    assert answers.tokens[long] == answers.tokens[waiting] == []
    assert len(answers.ids(running)) == 3
    assert answers.ids(last) == plain(model, prompts[3], 12)


def test_a_long_prompt_does_not_hold_up_the_others(model: Transformer) -> None:
    """While a prompt is read in chunks, every step yields a token of each that runs."""
    answers = Answers(Engine(model, slots=2, prefill_chunk=4))
    first = answers.submit([5, 6])
    answers.step()
    second = answers.submit(random_prompt(40, 1))
    for n in range(2, 11):
        answers.step()
        assert len(answers.ids(first)) == n and answers.ids(second) == []
    answers.step()
    assert len(answers.ids(second)) == 1


def test_a_short_prompt_does_not_wait_for_a_long_one(model: Transformer) -> None:
    """It has its first token in the step after it was asked for, and the next one with the long one's next part."""
    answers = Answers(Engine(model, slots=3, prefill_chunk=4))
    long = answers.submit(random_prompt(40, 1))
    answers.step()
    short = answers.submit([5, 6])
    answers.step()
    assert len(answers.ids(short)) == 1 and answers.ids(long) == []
    for _ in range(10):
        answers.step()
    assert len(answers.ids(short)) == 11 and len(answers.ids(long)) == 1
    answers.finished()
    assert answers.ids(short) == plain(model, [5, 6], 12)
    assert is_greedy(model, random_prompt(40, 1), answers.ids(long))


class Work(TorchFunctionMode):
    """Multiplications in the body of a with statement: those of matrices and those of attention."""

    n = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.mm:
            self.n += args[0].numel() * args[1].shape[1]
        elif func is F.scaled_dot_product_attention:
            self.n += 2 * args[0].numel() * args[1].shape[-2]
        return func(*args, **(kwargs or {}))


def test_a_step_does_little_for_a_long_prompt(tiny: Tiny) -> None:
    """Whoever comes waits for about twice the work of a prompt of 16 tokens, however much is read already."""
    engine = Engine(model_of(tiny(n_layers=8, d_model=128, max_seq_len=1000)), slots=3, prefill_chunk=64)
    work = []
    for length in (16, 990):
        engine.submit(random_prompt(length, 1), replace(GREEDY, max_new_tokens=1))
        while not engine.is_idle:
            with Work() as done:
                engine.step()
            work.append(done.n)
    assert len(work) > 30 and max(work) < 2.5 * work[0]


def test_a_part_of_a_prompt_is_begun_again_in_another_row(tiny: Tiny) -> None:
    """A long prompt is read right though an older one is cancelled at any step and its row is taken."""
    model, prompt = model_of(tiny(max_seq_len=256)), random_prompt(100, 1)
    for n_steps in range(8):
        answers = Answers(Engine(model, slots=2, prefill_chunk=64))
        cancelled, number = answers.submit(random_prompt(200, 2)), answers.submit(prompt)
        for _ in range(n_steps):
            answers.step()
        answers.engine.cancel(cancelled)
        assert is_greedy(model, prompt, answers.finished().ids(number))


def test_long_prompts_come_to_their_turn(model: Transformer) -> None:
    """Whatever is asked after it, short or long, every second step is a long prompt's, and the oldest is not last."""
    answers = Answers(Engine(model, slots=4, prefill_chunk=4))
    first, second = answers.submit(random_prompt(40, 1)), answers.submit(random_prompt(12, 2))
    n_steps = 0
    while not answers.ids(first):
        answers.submit([5, 6], replace(GREEDY, max_new_tokens=1))
        answers.step()
        n_steps += 1
    assert answers.ids(second) and n_steps <= 2 * (10 + 3) + 1
    for number, prompt in ((first, random_prompt(40, 1)), (second, random_prompt(12, 2))):
        assert is_greedy(model, prompt, answers.finished().ids(number))


def test_what_cannot_be_asked_is_refused_at_the_door(model: Transformer) -> None:
    """Prompts that are empty, too long or of unknown ids are refused, and disturb nobody."""
    answers = Answers(Engine(model, context=16))
    number = answers.submit([5, 6])
    answers.step()
    for prompt, message in (
        ([], "a prompt of 0 tokens leaves no room"),
        ([5] * 16, "a prompt of 16 tokens leaves no room in the context of 16"),
        ([5, 400], "vocabulary of 400"),
        ([-1], "vocabulary of 400"),
    ):
        with pytest.raises(UserError, match=message):
            answers.submit(prompt)
    assert answers.finished().ids(number) == plain(model, [5, 6], 12)


@pytest.mark.parametrize("settings", [{"slots": 0}, {"context": 1}, {"prefill_chunk": 0}])
def test_impossible_engines_are_refused(model: Transformer, settings: dict[str, int]) -> None:
    """No slots, no room and empty chunks are refused."""
    with pytest.raises(UserError, match=next(iter(settings))):
        Engine(model, **settings)


def test_a_context_beyond_the_models_needs_rotations_that_stretch(tiny: Tiny, model: Transformer) -> None:
    """A longer context is refused, but for dynamic scaling, where it is the plain pass's at that length."""
    with pytest.raises(UserError, match="max_seq_len of 64"):
        Engine(model, context=65)
    config = tiny(max_seq_len=16, rope_scaling=RopeScaling("dynamic", 2.0))
    stretching = model_of(config)
    prompt = random_prompt(31, 2)
    answers = Answers(Engine(stretching, context=32))
    token = answers.submit(prompt, replace(GREEDY, logprobs=0))
    answers.finished()
    scores = stretching.logits(torch.tensor([[*prompt, 5]]))[0, 30].log_softmax(-1)
    assert answers.tokens[token][0].id == int(scores.argmax())
    assert answers.tokens[token][0].logprob == pytest.approx(float(scores.max()), abs=1e-4)


@pytest.mark.parametrize("call", [generate_ids, beam])
def test_reading_in_inference_mode_leaves_the_model_trainable(tiny: Tiny, call: Callable[..., object]) -> None:
    """What is kept in the model from then on can take part in training."""
    model = model_of(tiny())
    with torch.inference_mode():
        list(call(model, [5, 6], Sampling(max_new_tokens=3)))  # type: ignore[call-overload]
    tokens = torch.tensor([[5, 6, 7]])
    model.train()(tokens[:, :-1], tokens[:, 1:]).sum().backward()


def test_sixteen_bits(model: Transformer) -> None:
    """Under autocast, when the engine is made, answers are about as probable as in 32 bits, also for steps outside."""
    with torch.autocast("cpu", torch.bfloat16):
        answers = Answers(Engine(model, slots=2, prefill_chunk=5))
    prompts = [random_prompt(length, length) for length in (3, 14, 20)]
    numbers = [answers.submit(prompt, replace(GREEDY, logprobs=0)) for prompt in prompts]
    answers.step()
    with torch.autocast("cpu", torch.bfloat16):
        answers.finished()
    errors = []
    for number, prompt in zip(numbers, prompts, strict=True):
        exact = model.logits(torch.tensor([[*prompt, *answers.ids(number)]]))[0, len(prompt) - 1 : -1].log_softmax(-1)
        for token, row in zip(answers.tokens[number], exact, strict=True):
            errors.append(abs(float(row[token.id]) - (token.logprob or 0)))
    assert 0 < sum(errors) / len(errors) < 0.3


def test_weights_are_those_of_now(tiny: Tiny) -> None:
    """An engine made after the weights were changed reads the changed ones; a model in training has no dropout."""
    model = model_of(tiny(dropout=0.5)).train()
    before = Answers(Engine(model))
    number = before.submit([5, 6])
    before.finished()
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.flip(0))
    after = Answers(Engine(model))
    number = after.submit([5, 6])
    assert after.finished().ids(number) != before.ids(0)
    assert model.training
    assert after.ids(number) == plain(model.eval(), [5, 6], 12)
