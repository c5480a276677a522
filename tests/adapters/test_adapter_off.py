"""An adapter switched off: the model is its base, to the bit, and itself again afterwards."""

import pytest
import torch
from model_fixtures import Tiny, frozen_as, model_of, some_tokens, stirred
from torch import nn

from babyllm.generation.decoder import Decoder
from babyllm.model.adapt.lora import LoraConfig, adapter_off, add_lora, lora_layers
from babyllm.model.adapt.token_rows import matrices_of, train_token_rows
from babyllm.model.config import ModelConfig
from babyllm.model.linear import FrozenLinear, WeightStorage
from babyllm.model.transformer import OUTPUT, Transformer

IDS = (3, 7, 11)


def adapted(
    config: ModelConfig, targets: tuple[str, ...] = ("all",), storage: WeightStorage = "float32"
) -> Transformer:
    """A model with updates and trained rows that change what it says."""
    model = add_lora(model_of(config), LoraConfig(rank=4, targets=list(targets), **frozen_as(storage)))
    return stirred(train_token_rows(model, matrices_of(model, IDS)))


@pytest.mark.parametrize(
    ("is_tied", "targets"),
    [(False, ("all",)), (False, ("all", OUTPUT)), (True, ("all",)), (True, ("q_proj", "down_proj"))],
)
def test_switched_off_it_is_the_base(tiny: Tiny, is_tied: bool, targets: tuple[str, ...]) -> None:
    """Losses, entropies, hidden states, logits and what a decoder reads are the base's, to the bit."""
    config = tiny(tie_embeddings=is_tied)
    base, model = model_of(config), adapted(config, targets)
    tokens = some_tokens(config)
    tokens[0, :3] = torch.tensor(IDS)
    wanted = ("nats", "entropy", "hidden")
    changed = model(tokens, tokens, returns=wanted)
    with torch.no_grad():
        expected = base(tokens, tokens, returns=wanted)
    with adapter_off(model):
        found = model(tokens, tokens, returns=wanted)
        assert torch.equal(model.logits(tokens), base.logits(tokens))
        decoders = [Decoder(one, 2, 24) for one in (model, base)]
    with torch.inference_mode():
        assert torch.equal(*(decoder.read_all(tokens, 0, [0, 0]) for decoder in decoders))
    for name in wanted:
        assert torch.equal(found[name], expected[name]) and not found[name].requires_grad
        assert (changed[name] - expected[name]).abs().max() > 1e-3
        assert torch.equal(model(tokens, tokens, returns=wanted)[name], changed[name])


@pytest.mark.parametrize("storage", ["bfloat16", "int8", "nf4", "nf4_double"])
def test_a_coarse_base_stays_as_coarse(tiny: Tiny, storage: WeightStorage) -> None:
    """Switched off, a base stored in fewer bits is what it is without updates."""
    base, model = model_of(tiny()), adapted(tiny(), storage=storage)
    for name in lora_layers(model):
        layer = base.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        base.set_submodule(name, FrozenLinear(layer, storage))
    tokens = some_tokens(base.config)
    with adapter_off(model):
        assert torch.equal(model(tokens, tokens), base(tokens, tokens))


def test_contexts_nest_and_survive_errors(tiny: Tiny) -> None:
    """The adapter stays off until the outermost context ends, however it ends; a plain model is left alone."""
    model = adapted(tiny())
    tokens = some_tokens(model.config)
    with torch.no_grad():
        on = model(tokens, tokens)
        with adapter_off(model):
            off = model(tokens, tokens)
            with adapter_off(model), pytest.raises(ZeroDivisionError), adapter_off(model):
                _ = 1 / 0
            assert torch.equal(model(tokens, tokens), off)
        with pytest.raises(ZeroDivisionError), adapter_off(model):
            _ = 1 / 0
        assert torch.equal(model(tokens, tokens), on) and not torch.equal(on, off)
    plain = model_of(tiny())
    with adapter_off(plain):
        assert torch.equal(plain(tokens, tokens), off)
    assert plain(tokens, tokens).requires_grad


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_a_reference_pass_leaves_ddp_gradients_as_they_are(tiny: Tiny, is_checkpointed: bool) -> None:
    """Between the forward and the backward pass the same wrapped model may be read as its own reference."""
    config = tiny(activation_checkpointing=is_checkpointed)
    plain, model = adapted(config).train(), adapted(config).train()
    wrapped = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    tokens = some_tokens(config)
    base = model_of(config)(tokens, tokens).detach()
    nats = wrapped(tokens, tokens)
    with adapter_off(wrapped):
        reference = wrapped(tokens, tokens)
    torch.testing.assert_close(reference, base, rtol=0, atol=1e-6)
    (nats - reference).square().sum().backward()
    (plain(tokens, tokens) - reference).square().sum().backward()
    trained = [p for p in plain.parameters() if p.requires_grad]
    for mine, theirs in zip((p for p in model.parameters() if p.requires_grad), trained, strict=True):
        assert mine.grad is not None and torch.equal(mine.grad, theirs.grad)
