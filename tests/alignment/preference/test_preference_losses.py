"""The losses of preferences: formulas in NumPy, finite differences, divisions of a step, and trl."""

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from babyllm.data.batch import Batch
from babyllm.errors import UserError
from babyllm.model.cross_entropy import IGNORE
from babyllm.objectives.preference.preference_losses import PREFERENCE_LOSSES, UNPAIRED_LOSSES, Sides, preference_loss
from babyllm.objectives.preference.preference_options import PreferenceName, PreferenceOptions
from babyllm.runtime import Runtime
from babyllm.training.stages.preference.reference_point import WithReferencePoint

B, T, V = 5, 7, 12
POINT, SHIFT = 0.7, -8.0  # nats: a reference point, and how much less the reference thinks of other answers
LENGTHS = ((3, 5), (1, 6), (4, 4), (2, 1), (5, 3))
REFERENCE = torch.tensor([[-4.0, -9.0], [-2.0, -7.0], [-6.0, -5.5], [-3.0, -1.0], [-8.0, -6.0]], dtype=torch.float64)


class Table(nn.Module):
    """A model whose nats of a target depend on the token and the target."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(V, V, dtype=torch.float64, generator=generator))

    def forward(self, tokens: Tensor, targets: Tensor, n_targets: int | None = None) -> Tensor:
        """(N, T) nats."""
        return nats_of(self.weight, tokens, targets)


def nats_of(weight: Tensor, tokens: Tensor, targets: Tensor) -> Tensor:
    found = F.softplus(weight[tokens, targets.clamp_min(0)])
    return found.masked_fill(targets == IGNORE, 0.0)


def batch(chosen: range = range(B)) -> Batch:
    """Pairs whose answers end at column T, 7 or earlier."""
    generator = torch.Generator().manual_seed(1)
    whole = torch.randint(0, V, (B, 2, T + 1), generator=generator)
    targets = whole[..., 1:].clone()
    for i, sides in enumerate(LENGTHS):
        for side, n in enumerate(sides):
            targets[i, side, : T - n] = IGNORE
    rows = list(chosen)
    tensors = {"tokens": whole[rows, :, :-1], "targets": targets[rows], "reference": REFERENCE[rows]}
    return Batch(tensors, {"pair": len(rows), "token": int((targets[rows] != IGNORE).sum())})


def single(chosen: range = range(2 * B)) -> Batch:
    """The sides as single answers, every other one good, with a reference point."""
    found = batch()
    rows = list(chosen)
    tensors = {name: found[name].flatten(0, 1)[rows] for name in ("tokens", "targets")}
    tensors["reference"] = REFERENCE.reshape(-1, 1)[rows]
    tensors["desirable"] = torch.tensor([[1.0], [0.0]]).repeat(B, 1)[rows]
    tensors["numbers"], tensors["point"] = torch.tensor(rows)[:, None], torch.full((len(rows), 1), POINT)
    return Batch(tensors, {"answer": len(rows), "token": 1})


def mismatched(chosen: range = range(2 * B)) -> Batch:
    """The single answers, each with one to another prompt as a second side."""
    own, other = single(chosen), single()
    rows = [(row + 2) % (2 * B) for row in chosen]
    tensors = {name: torch.stack([own[name], other[name][rows]], 1) for name in ("tokens", "targets")}
    tensors["reference"] = torch.cat([own["reference"], other["reference"][rows] + SHIFT], 1)
    return Batch(tensors | {name: own[name] for name in ("desirable", "numbers")}, own.units)


OPTIONS = {
    "sigmoid": PreferenceOptions(),
    "sigmoid, smoothed": PreferenceOptions(beta=0.3, label_smoothing=0.2),
    "sigmoid, by length": PreferenceOptions(beta=2.0, length_normalised=True),
    "sigmoid, with SFT": PreferenceOptions(sft_weight=0.7),
    "ipo": PreferenceOptions("ipo", beta=0.2),
    "ipo_sum": PreferenceOptions("ipo_sum", beta=0.2),
    "hinge": PreferenceOptions("hinge", beta=0.4),
    "robust": PreferenceOptions("robust", label_smoothing=0.1),
    "orpo": PreferenceOptions("orpo", beta=0.5),
    "simpo": PreferenceOptions("simpo", beta=2.0, gamma=0.6),
}


def log_sigmoid(x: float) -> float:
    return -float(np.log1p(np.exp(-x)))


def by_hand(name: str, o: PreferenceOptions, c: float, r: float, cr: float, rr: float, nc: int, nr: int) -> float:
    """The loss of one pair as the paper writes it; c, r are log-probabilities, cr, rr the reference's."""
    beta, e, kind = o.beta, o.label_smoothing, name.partition(",")[0]
    if kind == "orpo":
        odds = [np.exp(x / n) / (1 - np.exp(x / n)) for x, n in ((c, nc), (r, nr))]
        return -c / nc - beta * log_sigmoid(float(np.log(odds[0] / odds[1])))
    if kind == "simpo":
        return -log_sigmoid(beta * c / nc - beta * r / nr - o.gamma)
    d = (c - cr) - (r - rr)
    if kind == "ipo":
        return ((c - cr) / nc - (r - rr) / nr - 1 / (2 * beta)) ** 2
    if kind == "ipo_sum":
        return (d - 1 / (2 * beta)) ** 2
    if kind == "hinge":
        return max(0.0, 1 - beta * d)
    if kind == "robust":
        return (-(1 - e) * log_sigmoid(beta * d) + e * log_sigmoid(-beta * d)) / (1 - 2 * e)
    if o.length_normalised:
        d = (c - cr) / nc - (r - rr) / nr
    return -(1 - e) * log_sigmoid(beta * d) - e * log_sigmoid(-beta * d) - o.sft_weight * c / nc


@pytest.mark.parametrize("name", OPTIONS)
def test_losses_equal_their_formulas(name: str) -> None:
    """The sum over pairs is that of the papers' formulas, one pair at a time."""
    model, given = Table(), batch()
    logps = -nats_of(model.weight.detach(), given["tokens"], given["targets"]).sum(-1).numpy()
    rows = zip(logps.tolist(), REFERENCE.tolist(), LENGTHS, strict=True)
    expected = sum(by_hand(name, OPTIONS[name], *logp, *reference, *n) for logp, reference, n in rows)
    terms = preference_loss(OPTIONS[name])(model, given)
    assert list(terms.sums) == ["pair"] and float(terms.sums["pair"].detach()) == pytest.approx(expected, abs=1e-9)
    assert {option.name for option in OPTIONS.values()} == set(PREFERENCE_LOSSES)


@pytest.mark.parametrize("name", [*OPTIONS, *UNPAIRED_LOSSES])
def test_gradients_equal_finite_differences(name: PreferenceName) -> None:
    """In float64, where a reference point is held."""
    options = OPTIONS.get(name, PreferenceOptions(name))
    given = single() if options.is_unpaired else batch()

    def loss(weight: Tensor) -> Tensor:
        def model(tokens: Tensor, targets: Tensor, n_targets: int | None = None) -> Tensor:
            return nats_of(weight, tokens, targets)

        (total,) = preference_loss(options)(model, given).sums.values()  # type: ignore[arg-type]
        return total

    assert torch.autograd.gradcheck(loss, (Table().weight,))


@pytest.mark.parametrize("name", [*OPTIONS, *UNPAIRED_LOSSES])
def test_a_step_may_be_divided_in_any_way(name: PreferenceName) -> None:
    """Losses and metrics of micro-batches of one add up to those of all."""
    options = OPTIONS.get(name, PreferenceOptions(name, undesirable_weight=0.5))
    make: Callable[..., Batch] = single if options.is_unpaired else batch
    model, loss, n = Table(), preference_loss(options), 2 * B if options.is_unpaired else B
    whole, parts = loss(model, make()), [loss(model, make(range(i, i + 1))) for i in range(n)]
    unit = "answer" if options.is_unpaired else "pair"
    torch.testing.assert_close(sum(part.sums[unit] for part in parts), whole.sums[unit])
    for metric, (value, count) in whole.metrics.items():
        torch.testing.assert_close(sum(part.metrics[metric][0] for part in parts), value, check_dtype=False)
        assert sum(float(part.metrics[metric][1]) for part in parts) == float(count)


@pytest.mark.parametrize("name", UNPAIRED_LOSSES)
def test_losses_of_single_answers_equal_their_formulas(name: PreferenceName) -> None:
    """A weight less the value of the answer, which is a sigmoid of its distance from the reference point."""
    model, given = Table(), single()
    logps = -nats_of(model.weight.detach(), given["tokens"], given["targets"]).sum(-1).numpy()
    ratios, point = logps - REFERENCE.reshape(-1).numpy(), POINT if name == "kto" else 0.0
    expected = 0.0
    for ratio, is_good in zip(ratios, [True, False] * B, strict=True):
        weight, distance = (2.0, ratio - point) if is_good else (0.6, point - ratio)
        expected += weight - weight / (1 + np.exp(-0.3 * distance))
    options = PreferenceOptions(name, beta=0.3, desirable_weight=2.0, undesirable_weight=0.6)
    terms = preference_loss(options)(model, given)
    assert float(terms.sums["answer"].detach()) == pytest.approx(expected, abs=1e-6)
    assert ("reference_point" in terms.metrics) == (name == "kto")


@pytest.mark.parametrize("size", [1, 2, 5, 10])
def test_the_reference_point_is_one_for_the_whole_step(size: int, runtime: Runtime) -> None:
    """The mean log-ratio of the other answers, in micro-batches of any size; their own sides are left."""
    step = [mismatched(range(i, i + size)) for i in range(0, 2 * B, size)]
    whole, model = mismatched(), Table()
    (found,) = WithReferencePoint(iter([step]), model, runtime)  # type: ignore[arg-type]
    assert model.training and model.weight.grad is None
    logps = -nats_of(model.weight.detach(), whole["tokens"][:, 1], whole["targets"][:, 1]).sum(-1)
    expected = float((logps - whole["reference"][:, 1]).mean())
    assert expected > 1 and len(found) == 2 * B // size
    for batch, own in zip(found, (single(range(i, i + size)) for i in range(0, 2 * B, size)), strict=True):
        torch.testing.assert_close(batch["point"], torch.full((size, 1), expected))
        assert all(torch.equal(batch[name], own[name]) for name in batch.tensors if name != "point")
        assert batch.units == {"answer": size, "token": int((own["targets"] != IGNORE).sum())}


def test_the_reference_point_is_at_least_0(runtime: Runtime) -> None:
    """Where other answers have become less probable than under the reference."""
    given = mismatched()
    given.tensors["reference"] = torch.zeros_like(given["reference"])
    (found,) = WithReferencePoint(iter([[given]]), Table(), runtime)  # type: ignore[arg-type]
    assert (found[0]["point"] == 0).all()


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (PreferenceOptions("hinge", label_smoothing=0.1), "label_smoothing"),
        (PreferenceOptions("simpo", length_normalised=True), "length_normalised"),
        (PreferenceOptions("orpo", sft_weight=1.0), "sft_weight"),
    ],
)
def test_settings_without_effect_are_refused(options: PreferenceOptions, wrong: str) -> None:
    """By the flag that has none."""
    with pytest.raises(UserError, match=f"--loss.{wrong}"):
        preference_loss(options)


def test_orpo_is_finite_for_an_answer_that_is_certain() -> None:
    """In float32, where 1 less its probability is 0."""
    logps = torch.tensor([[0.0, -2.0], [-1e-9, -1e-9]], requires_grad=True)
    sides = Sides(logps, torch.zeros(2, 2), torch.ones(2, 2))
    loss = PREFERENCE_LOSSES["orpo"](sides, PreferenceOptions("orpo")).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert logps.grad is not None and logps.grad.isfinite().all() and loss.isfinite()


def recorded(loss: Tensor, model: Table) -> tuple[Tensor, Tensor]:
    """A loss and its gradient."""
    loss.backward()  # type: ignore[no-untyped-call]
    assert model.weight.grad is not None
    return loss.detach(), model.weight.grad


@pytest.mark.trl
@pytest.mark.parametrize(
    ("name", "in_trl"),
    [*((name, name) for name in ("sigmoid", "ipo", "hinge", "robust")), ("sigmoid, by length", "sigmoid_norm")],
)
def test_losses_and_gradients_equal_those_of_dpo_in_trl(name: str, in_trl: str) -> None:
    """DPOTrainer's own method on the same log-probabilities, within 1e-5."""
    trainer, options, given = pytest.importorskip("trl").DPOTrainer, OPTIONS[name], batch()
    theirs, ours = Table(), Table()
    tokens, targets = (given[key].transpose(0, 1).flatten(0, 1) for key in ("tokens", "targets"))
    whole = torch.cat([tokens, targets[:, -1:].clamp_min(0)], 1)
    mask = F.pad((targets != IGNORE).long(), (1, 0))

    def model(**_: object) -> SimpleNamespace:
        logps = -nats_of(theirs.weight, tokens, targets)
        zeros = torch.zeros_like(logps)
        return SimpleNamespace(log_probs=logps, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())

    itself = SimpleNamespace(
        **{key: None for key in ("ld_alpha", "ref_model")},
        **{key: False for key in ("aux_loss_enabled", "use_weighting")},
        model=SimpleNamespace(training=False),
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[in_trl],
        loss_weights=[1.0],
        beta=options.beta,
        label_smoothing=options.label_smoothing,
        accelerator=SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x),
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
    )
    inputs: dict[str, Any] = {"input_ids": whole, "attention_mask": torch.ones_like(whole), "completion_mask": mask}
    inputs |= {"ref_chosen_logps": REFERENCE[:, 0], "ref_rejected_logps": REFERENCE[:, 1]}
    expected = recorded(trainer._compute_loss(itself, model, inputs, return_outputs=False), theirs)
    found = recorded(preference_loss(options)(ours, given).sums["pair"] / B, ours)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.trl
@pytest.mark.parametrize("name", ["orpo", "simpo"])
def test_losses_and_gradients_equal_those_without_reference_in_trl(name: str) -> None:
    """The loss functions of trl's experimental trainers on mean log-probabilities, within 1e-5."""
    module = pytest.importorskip(f"trl.experimental.{'orpo' if name == 'orpo' else 'cpo'}")
    options, given, theirs, ours = OPTIONS[name], batch(), Table(), Table()
    targets = given["targets"]
    means = -nats_of(theirs.weight, given["tokens"], targets).sum(-1) / (targets != IGNORE).sum(-1)
    itself = SimpleNamespace(
        beta=options.beta, accelerator=SimpleNamespace(device="cpu"), alpha=0.0, loss_type="simpo",
        simpo_gamma=options.gamma, label_smoothing=0.0,
    )  # fmt: skip
    if name == "orpo":
        ratio = module.ORPOTrainer.odds_ratio_loss(itself, means[:, 0], means[:, 1])[0]
        expected = recorded((-means[:, 0] - ratio).mean(), theirs)
    else:
        expected = recorded(module.CPOTrainer.cpo_loss(itself, means[:, 0], means[:, 1])[0].mean(), theirs)
    found = recorded(preference_loss(options)(ours, given).sums["pair"] / B, ours)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.trl
@pytest.mark.parametrize("name", UNPAIRED_LOSSES)
def test_losses_and_gradients_of_single_answers_equal_those_of_trl(name: PreferenceName, runtime: Runtime) -> None:
    """KTOTrainer's own method on a whole batch, with weights, within 1e-5; ours in micro-batches of two."""
    trainer, given = pytest.importorskip("trl").KTOTrainer, mismatched()
    options = PreferenceOptions(name, beta=0.3, desirable_weight=2.0, undesirable_weight=0.5)
    theirs, ours = Table(), Table()
    inputs: dict[str, Any] = {"label": given["desirable"].squeeze(1) > 0}
    for side, prefix in enumerate(("", "KL_")):
        tokens, targets = given["tokens"][:, side], given["targets"][:, side]
        inputs[f"{prefix}input_ids"] = whole = torch.cat([tokens, targets[:, -1:].clamp_min(0)], 1)
        inputs[f"{prefix}attention_mask"] = torch.ones_like(whole)
        inputs[f"{prefix}completion_mask"] = F.pad((targets != IGNORE).long(), (1, 0))
        inputs[f"ref_{prefix}logps"] = given["reference"][:, side]

    def model(input_ids: Tensor, labels: Tensor, **_: object) -> SimpleNamespace:
        logps = -nats_of(theirs.weight, input_ids[:, :-1], labels[:, 1:])
        return SimpleNamespace(log_probs=logps, entropy=torch.zeros_like(logps), mean_logits=torch.zeros_like(logps))

    itself = SimpleNamespace(
        aux_loss_enabled=False,
        calculate_KL=name == "kto",
        model=SimpleNamespace(training=False),
        precompute_ref_logps=True,
        loss_type=name,
        beta=options.beta,
        desirable_weight=options.desirable_weight,
        undesirable_weight=options.undesirable_weight,
        accelerator=SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x),
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
    )
    itself._compute_kl_logps = lambda *arguments: trainer._compute_kl_logps(itself, *arguments)
    expected = recorded(trainer._compute_loss(itself, model, inputs, return_outputs=False), theirs)
    step = [mismatched(range(i, i + 2)) for i in range(0, 2 * B, 2)]
    (divided,) = WithReferencePoint(iter([step]), ours, runtime)  # type: ignore[arg-type]
    sums = [preference_loss(options)(ours, part).sums["answer"] for part in divided]
    found = recorded(torch.stack(sums).sum() / (2 * B), ours)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
