"""Optimizers: the groups of parameters, Muon beside PyTorch's, and their states in checkpoints."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from training_fixtures import recording, stopping, tiny_config, tiny_state, weights

from babyllm.config import dump
from babyllm.data.token_config import DataConfig
from babyllm.errors import UserError
from babyllm.interop.huggingface import load_model
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.objectives.lm import language_model
from babyllm.optim import muon
from babyllm.optim.average import averaged
from babyllm.optim.build import make_optimizer
from babyllm.optim.config import OptimConfig
from babyllm.optim.muon import orthogonalised
from babyllm.runtime import Runtime
from babyllm.schedule import Plan
from babyllm.training.checkpoint import load, save
from babyllm.training.loop import train
from babyllm.training.run import open_run
from babyllm.training.stages.pretraining_config import PretrainConfig, resolved
from babyllm.training.state import Every

SHAPE = ModelConfig(vocab_size=50, n_layers=2, d_model=16, n_heads=2, n_kv_heads=1, tie_embeddings=True)
MUON = OptimConfig(matrices="muon", embedding_lr=4.0, matrices_lr=2.0)


@pytest.fixture
def model() -> Transformer:
    """A tiny model with gradients."""
    torch.manual_seed(0)
    model = Transformer(SHAPE)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


def groups_by_name(model: Transformer, config: OptimConfig) -> dict[str, dict[str, object]]:
    """The group of each parameter, without its list of parameters."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model, config)
    return {names[id(p)]: {**group, "params": 0} for group in optimizer.param_groups for p in group["params"]}


def test_learning_rates_and_decay_go_by_the_kind_of_a_parameter(model: Transformer) -> None:
    """The embedding and the blocks' matrices have rates of their own; only matrices decay, and only theirs is Muon."""
    groups = groups_by_name(model, MUON)
    assert set(groups) == {name for name, _ in model.named_parameters()}
    for name, group in groups.items():
        is_norm, is_embedding = name.endswith("norm.weight"), name == "embed_tokens.weight"
        assert group.get("lr_scale", 1.0) == (1.0 if is_norm else 4.0 if is_embedding else 2.0)
        assert group.get("is_muon", False) == (not is_norm and not is_embedding)
        assert group["weight_decay"] == (0.0 if is_norm else 0.1)
    with pytest.raises(UserError, match=r"optim\.embedding_lr=0"):
        make_optimizer(model, OptimConfig(embedding_lr=0.0))


@pytest.mark.parametrize("shape", [(3, 8, 24), (3, 24, 8)])
def test_orthogonalised_matrices_keep_their_directions(shape: tuple[int, int, int]) -> None:
    """The polynomials act on the singular values alone, which end near 1; wide and tall matrices, each by itself."""
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    found = orthogonalised(matrices)
    left, values, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    values = values / (torch.linalg.vector_norm(values, dim=1, keepdim=True) * muon.MARGIN)
    for a, b, c in muon.POLYNOMIALS:
        values = a * values + b * values**3 + c * values**5
    assert values.min() > 0.4 and values.max() < 1.6
    assert torch.allclose(found, (left * values[:, None] @ right).float(), atol=1e-3)
    assert torch.allclose(found[1], orthogonalised(matrices[1:2])[0], atol=1e-3)


def test_muon_makes_the_steps_of_pytorch(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With Newton-Schulz steps, three updates change each matrix as `torch.optim.Muon` does, but for its bfloat16."""
    monkeypatch.setattr(muon, "POLYNOMIALS", ((3.4445, -4.7750, 2.0315),) * 5)
    monkeypatch.setattr(muon, "MARGIN", 1.0)
    chosen = {n: p for n, p in model.named_parameters() if p.dim() == 2 and n.startswith("layers")}
    theirs = {name: torch.nn.Parameter(p.detach().clone()) for name, p in chosen.items()}
    begin = {name: p.detach().clone() for name, p in chosen.items()}
    ours = make_optimizer(model, replace(MUON, matrices_lr=1.0))
    peer = torch.optim.Muon(
        list(theirs.values()), lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for group in ours.param_groups:
        group["lr"] = 0.02
    for _ in range(3):
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn_like(parameter)
            if name in theirs:
                theirs[name].grad = parameter.grad.clone()
        ours.step()
        peer.step()
    for name, parameter in chosen.items():
        change, expected = parameter - begin[name], theirs[name] - begin[name]
        assert (change - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("optim", [MUON, OptimConfig(average=0.5), replace(MUON, average=0.9)])
def test_a_run_resumes_bit_for_bit(optim: OptimConfig, data: Path, runtime: Runtime, tmp_path: Path) -> None:
    """Four steps, a checkpoint and four more have the losses, weights, moments and average of eight steps."""
    config, plan = replace(tiny_config(data), optim=optim), Plan(steps=8, peak_lr=1e-2)
    losses: dict[str, list[float]] = {"straight": [], "half": []}
    straight, half, again = (tiny_state(config, runtime) for _ in range(3))
    train(straight, language_model, plan, [recording(losses["straight"])])
    train(half, language_model, plan, [recording(losses["half"]), stopping(4)])
    save(half, tmp_path, None, keep=1)
    load(again, tmp_path / "step_00000004")
    train(again, language_model, plan, [recording(losses["half"])])
    assert losses["half"] == losses["straight"]
    assert torch.equal(weights(again), weights(straight))
    mine, theirs = again.optimizer.state_dict()["state"], straight.optimizer.state_dict()["state"]
    assert all(torch.equal(mine[i][key], value) for i, by_key in theirs.items() for key, value in by_key.items())
    if straight.average and again.average:
        averages = again.average.tensors
        assert all(torch.equal(averages[name], tensor) for name, tensor in straight.average.tensors.items())


def test_the_average_is_what_is_evaluated_and_saved(data: Path, runtime: Runtime, tmp_path: Path) -> None:
    """It follows the formula; step directories, evaluations and samples have it, and training goes on without it."""
    config = replace(tiny_config(data), optim=OptimConfig(average=0.5), run_dir=str(tmp_path))
    state, seen = tiny_state(config, runtime), []
    train(state, language_model, Plan(steps=3), [Every(1, lambda state: seen.append(weights(state).clone()))])
    expected = weights(tiny_state(config, runtime))
    for step, now in enumerate(seen):
        kept = min(0.5, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * now
    assert torch.equal(weights(state), seen[-1])
    with averaged(state.average):
        assert torch.allclose(weights(state), expected, atol=1e-6)
        mean = weights(state).clone()
    save(state, tmp_path, None, keep=1)
    stored = load_model(tmp_path / "step_00000003")
    assert torch.equal(torch.cat([p.detach().flatten() for p in stored.parameters()]), mean)
    assert torch.equal(weights(state), seen[-1])
    with open_run(config, state, None, Plan(steps=3)) as run:
        run.evaluation(1, lambda state: {"all/loss": float(weights(state).norm())}, lambda state: []).run(state)
        assert run.losses == {"val/all/loss": float(mean.norm()), "val/plain/all/loss": float(seen[-1].norm())}
    without = tiny_state(replace(config, optim=OptimConfig()), runtime)
    load(without, tmp_path / "step_00000003")
    assert torch.equal(weights(without), seen[-1])


def test_a_run_begun_with_other_defaults_keeps_them(tmp_path: Path) -> None:
    """A run from before there was Muon keeps the old defaults at each start; what the command sets comes first."""
    begun = PretrainConfig(
        run_dir=str(tmp_path), data=DataConfig(global_batch=8), optim=OptimConfig(), plan=Plan(epochs=1.25)
    )
    written = yaml.safe_load(dump(begun))
    written["optim"] = {"weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8}
    command = PretrainConfig(run_dir=str(tmp_path))
    for content in (yaml.safe_dump(written), dump(begun)):
        (tmp_path / "config.yaml").write_text(content, encoding="utf-8")
        found = resolved(replace(command, plan=replace(command.plan, peak_lr=2e-3)))
        assert found.optim == begun.optim
        assert found.plan == replace(begun.plan, peak_lr=2e-3)
        assert found.data.global_batch == 8
    (tmp_path / "config.yaml").write_text(dump(replace(begun, plan=replace(begun.plan, epochs=3.0))), encoding="utf-8")
    assert resolved(command).plan == replace(begun.plan, epochs=command.plan.epochs)
    (tmp_path / "config.yaml").write_text(dump(command), encoding="utf-8")
    assert resolved(command).optim == command.optim
