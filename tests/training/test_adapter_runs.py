"""Runs that train an adapter: new tokens, the base that a run holds, and runs that start from another adapter."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_fixtures import some_tokens

import babyllm
from babyllm.config import dump, parse
from babyllm.errors import UserError
from babyllm.generation.decoder import Decoder
from babyllm.interop.huggingface import load_model, save_model
from babyllm.model.adapt.lora import lora_layers, merge_lora
from babyllm.model.adapt.token_rows import token_rows
from babyllm.model.config import ModelConfig, RopeScaling
from babyllm.model.transformer import Transformer
from babyllm.objectives.conversation import conversation_loss
from babyllm.run_directory import write_resume
from babyllm.runtime import Runtime
from babyllm.tokenizer import Tokenizer
from babyllm.training import checkpoint
from babyllm.training.loop import train
from babyllm.training.run import open_run
from babyllm.training.stages.fine_tuning import FineTuning, new_run
from babyllm.training.stages.fine_tuning_config import FineTuneConfig

DEVICE = ("--runtime.device=cpu", "--runtime.dtype=float32", "--runtime.threads=1", "--data.work.workers=1")


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def base(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer: Tokenizer,
    tiny: Callable[..., ModelConfig],
) -> Path:
    """A run directory with one step of a base model; tests must not change it."""
    directory = tmp_path_factory.mktemp("pretrain") / "step_00000007"
    directory.mkdir()
    torch.manual_seed(1)
    model = Transformer(tiny(tie_embeddings=request.param))
    with torch.no_grad():
        model.embed_tokens.weight.mul_(10)
    save_model(directory, model, tokenizer)
    return directory.parent


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short questions with short answers."""
    rng = random.Random(3)
    records = [
        {"prompt": "".join(rng.choices("今天气很好", k=3)), "answer": "".join(rng.choices("abc", k=rng.randint(1, 3)))}
        for _ in range(64)
    ]
    file = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    file.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return file


def configured(base: Path, chats: Path, run_dir: Path, *more: str) -> FineTuneConfig:
    arguments = [
        *(f"--init_from={base}", f"--data.path={chats}", f"--run_dir={run_dir}", "--data.template=chatml"),
        *("--data.seq_len=64", "--data.global_batch=16", "--data.held_out=0", "--lora.rank=4", "--plan.steps=2"),
        *("--plan.peak_lr=0.02", "--plan.schedule=constant", *DEVICE, *more),
    ]
    return parse(FineTuneConfig, arguments, prog="test")


def run(config: FineTuneConfig, runtime: Runtime) -> FineTuning:
    """A run trained from beginning to end and saved."""
    tuning = new_run(config, runtime)
    loss = conversation_loss(config.normalise, tuning.data.tasks, tuning.data.is_packed)
    chat = (tuning.template.source, tuning.template.end_ids)
    with open_run(config, tuning.state, tuning.template.tokenizer, tuning.plan, *chat) as opened:
        train(tuning.state, loss, tuning.plan, [opened.saving(0)])
    return tuning


def loss_at_ends(tuning: FineTuning) -> float:
    """Mean nats of the tokens that end answers."""
    batches = [batch for _, batch in zip(range(2), tuning.state.stream, strict=False)]
    nats: list[torch.Tensor] = []
    with torch.no_grad():
        for batch in (b for step in batches for b in step):
            losses = tuning.state.model.eval()(batch["tokens"], batch["targets"])
            nats.append(losses[batch["targets"] == tuning.template.end_ids[0]])
    return float(torch.cat(nats).mean())


def test_an_adapter_learns_to_end_answers(
    base: Path, chats: Path, tmp_path: Path, runtime: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a base without a template only LoRA and the rows of the template's tokens are trained."""
    steps = ("--plan.steps=30", "--lora.base=nf4")
    before = load_model(base / "step_00000007").state_dict()
    tuning = new_run(configured(base, chats, tmp_path / "a", *steps), runtime)
    start = loss_at_ends(tuning)
    tuning = run(configured(base, chats, tmp_path / "a", *steps), runtime)
    assert "the base has not learned them: the rows of <|im_start|>, <|im_end|>" in capsys.readouterr().out
    end = loss_at_ends(tuning)
    frozen = run(configured(base, chats, tmp_path / "b", *steps, "--lora.new_tokens=false"), runtime)
    assert not token_rows(frozen.state.model)
    assert start > 2.0 and end < 0.5 * start and end < loss_at_ends(frozen)
    special = tuning.template.tokenizer.special
    learned = {special["<|im_start|>"], special["<|im_end|>"]}
    merged = merge_lora(babyllm.load(tmp_path / "a")[0]).state_dict()
    for name in ("embed_tokens.weight", "lm_head.weight"):
        changed = (merged[name] != before[name]).any(dim=1).nonzero().flatten().tolist()
        assert set(changed) == learned


@pytest.mark.parametrize("storage", ["bfloat16", "int8", "nf4"])
def test_a_run_on_a_small_base_resumes_to_the_bit(
    base: Path, chats: Path, tmp_path: Path, runtime: Runtime, storage: str
) -> None:
    """The adapter and the held base are the same after four steps and after two and two, with a grown vocabulary."""
    run_dir, straight = tmp_path / "run", tmp_path / "straight"
    for steps in (4, 2, 4):
        more = (f"--lora.base={storage}", "--data.template=llama3", f"--plan.steps={steps}")
        run(configured(base, chats, run_dir, *more), runtime)
        if not straight.exists():
            run_dir.rename(straight)
    for name in ("step_00000004/adapter_model.safetensors", "base/model.safetensors"):
        assert (run_dir / name).read_bytes() == (straight / name).read_bytes()


@pytest.mark.parametrize("rank", [0, 2])
def test_a_run_stretches_the_context_once(base: Path, chats: Path, tmp_path: Path, runtime: Runtime, rank: int) -> None:
    """One layer of two and twice the context, with rows longer than the old one; a resumed run keeps both."""
    stretched = ("--model.rope_scaling=yarn", "--model.rope_factor=2", "--model.n_layers=1", "--data.seq_len=128")
    more = (*stretched, f"--lora.rank={rank}", "--data.pack")
    run(configured(base, chats, tmp_path / "run", *more), runtime)
    resumed = new_run(configured(base, chats, tmp_path / "run", *more, "--plan.steps=4"), runtime)
    for model in (resumed.state.model, babyllm.load(tmp_path / "run")[0]):
        assert (model.config.max_seq_len, model.config.n_layers) == (128, 1)
        assert model.config.rope_scaling == RopeScaling("yarn", 2.0, 64)


@pytest.mark.parametrize("template", ["chatml", "llama3"])
def test_transformers_opens_the_step_of_an_adapter(
    base: Path, chats: Path, tmp_path: Path, runtime: Runtime, template: str
) -> None:
    """`AutoModelForCausalLM` returns our logits within 1e-5, with a grown vocabulary and the original base deleted."""
    pytest.importorskip("peft")
    import transformers

    transformers.utils.logging.disable_progress_bar()
    shutil.copytree(base, tmp_path / "pretrain")
    tuning = run(configured(tmp_path / "pretrain", chats, tmp_path / "sft", f"--data.template={template}"), runtime)
    model = tuning.state.model.eval()
    shutil.rmtree(tmp_path / "pretrain")
    tokens = torch.cat([some_tokens(model.config), torch.tensor([tuning.template.special_ids()[:3]] * 2)], dim=1)
    step = tmp_path / "sft" / "step_00000002"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(step).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model.logits(tokens), rtol=0, atol=1e-5)
    read_step_by_step = Decoder(model, 1, tokens.shape[1]).read_all(tokens[:1], 0, [0])
    torch.testing.assert_close(read_step_by_step, model.logits(tokens[:1]), rtol=0, atol=1e-4)
    for path in (step, (tmp_path / "sft").rename(tmp_path / "moved")):
        if path.exists():
            assert torch.equal(babyllm.load(path)[0].logits(tokens), model.logits(tokens))
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "moved" / step.name)
    assert len(read) == tuning.template.tokenizer.vocab_size and read.chat_template == tuning.template.source


def test_a_base_is_held_without_taking_space(base: Path, chats: Path, tmp_path: Path, runtime: Runtime) -> None:
    """A base saved by a run is hard-linked and replaced by the next new run; a user's model is copied."""
    shutil.copytree(base, tmp_path / "pretrain")
    step, held = tmp_path / "pretrain" / "step_00000007", tmp_path / "sft" / "base" / "model.safetensors"
    for is_saved in (False, True, True):
        if is_saved:
            write_resume(step, {"sha256": {}})
        new_run(configured(tmp_path / "pretrain", chats, tmp_path / "sft"), runtime)
        assert held.samefile(step / "model.safetensors") == is_saved


def test_a_base_is_that_of_its_run(base: Path, chats: Path, tmp_path: Path, runtime: Runtime) -> None:
    """An adapter names its run's base, a copied run finds its own base, and a replaced base is reported by file."""
    run(configured(base, chats, tmp_path / "sft"), runtime)
    named = json.loads((tmp_path / "sft" / "step_00000002" / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == str(tmp_path / "sft" / "base")
    shutil.copytree(tmp_path / "sft", tmp_path / "copy")
    wrong = load_model(base / "step_00000007")
    with torch.no_grad():
        wrong.norm.weight.zero_()
    save_model(tmp_path / "sft" / "base", wrong, None)
    with pytest.raises(UserError, match=r"config\.json: is missing or not what .* trained with; bring it back from"):
        babyllm.load(tmp_path / "sft")
    (tmp_path / "sft" / "base" / "held_from.json").unlink()
    logits = [babyllm.load(tmp_path / name)[0].logits(some_tokens(wrong.config)) for name in ("sft", "copy")]
    assert not torch.equal(*logits)


def test_a_folder_of_ones_own_is_not_replaced(base: Path, chats: Path, tmp_path: Path, runtime: Runtime) -> None:
    """A folder that no run has made, in the place of a run's base, is refused and kept."""
    shutil.copytree(base / "step_00000007", tmp_path / "base")
    with pytest.raises(UserError, match=rf"{tmp_path / 'base'}: already exists, and no run has made it"):
        new_run(configured(tmp_path / "base", chats, tmp_path), runtime)
    load_model(tmp_path / "base")


def test_training_goes_on_with_an_adapter_elsewhere(
    base: Path, chats: Path, tmp_path: Path, runtime: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that starts from an adapter of the same rank takes its A, B and rows, and the headline says so."""
    first = run(configured(base, chats, tmp_path / "one"), runtime)
    second = configured(tmp_path / "one", chats, tmp_path / "two", "--plan.steps=3")
    tuning = new_run(second, runtime)
    before, now = (dict(t.state.model.state_dict()) for t in (first, tuning))
    assert before.keys() == now.keys() and all(torch.equal(before[name], now[name]) for name in before)
    assert token_rows(tuning.state.model)["embed_tokens"].token_ids.tolist() == [4, 5]
    capsys.readouterr()
    run(second, runtime)
    assert f"going on with the adapter of {tmp_path / 'one' / 'step_00000002'}" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "one")
    run(configured(tmp_path / "one", chats, tmp_path / "two", "--plan.steps=4"), runtime)
    assert lora_layers(babyllm.load(tmp_path / "two")[0])


def test_an_adapter_can_be_trained_in_full(
    base: Path, chats: Path, tmp_path: Path, runtime: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    """With rank 0 the adapter is merged into its base first, as the headline says; another rank or scale is refused."""
    run(configured(base, chats, tmp_path / "one"), runtime)
    capsys.readouterr()
    tuning = run(configured(tmp_path / "one", chats, tmp_path / "full", "--lora.rank=0"), runtime)
    told = capsys.readouterr().out
    assert f"from {tmp_path / 'one' / 'step_00000002'} merged into its base {tmp_path / 'one' / 'base'}" in told
    assert "from scratch" not in told and not lora_layers(tuning.state.model)
    for flag, message in (
        ("--lora.rank=8", "with other lora.rank, 4; give the same to go on with it, or --lora.rank=0"),
        ("--lora.alpha=3", "with other lora.alpha, 16.0;"),
        ("--lora.targets=[q_proj]", "with other lora.targets"),
    ):
        with pytest.raises(UserError, match=message):
            new_run(configured(tmp_path / "one", chats, tmp_path / "other", flag), runtime)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--data.template=llama3", "data.template: chatml -> llama3"),
        ("--data.seq_len=32", "data.seq_len: 64 -> 32"),
        ("--data.turns=last", "data.turns: all -> last"),
        ("--data.efficient_eos=true", "data.efficient_eos: false -> true"),
    ],
)
def test_a_resumed_run_names_the_setting_that_changed(
    base: Path, chats: Path, tmp_path: Path, runtime: Runtime, flag: str, message: str
) -> None:
    """Resuming with other settings of the conversations is refused, with the key's name, and the store is kept."""
    config = configured(base, chats, tmp_path / "sft")
    tuning = new_run(config, runtime)
    checkpoint.save(tuning.state, tmp_path / "sft", tuning.template.tokenizer, 1, tuning.template.source)
    (tmp_path / "sft" / "config.yaml").write_text(dump(config), encoding="utf-8")
    store = (tmp_path / "sft" / "conversations" / "ids.bin").read_bytes()
    with pytest.raises(UserError, match=message) as found:
        new_run(configured(base, chats, tmp_path / "sft", flag), runtime)
    assert "\n" not in str(found.value)
    assert (tmp_path / "sft" / "conversations" / "ids.bin").read_bytes() == store
    new_run(config, runtime)


def test_a_template_without_marks_is_refused_by_file_and_flag(
    base: Path, chats: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """A stored template that cannot be trained with is reported with its file and the flag that chooses another."""
    shutil.copytree(base, tmp_path / "base")
    file = tmp_path / "base" / "step_00000007" / "chat_template.jinja"
    file.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", encoding="utf-8")
    config = configured(tmp_path / "base", chats, tmp_path / "sft", "--data.template=null")
    with pytest.raises(UserError, match=rf"{file}: has no {{% generation %}}.*--data\.template"):
        new_run(config, runtime)


def test_the_path_of_a_base_is_absolute(
    base: Path, chats: Path, tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peft, which resolves paths in the current directory, finds the base of a run whose own paths were relative."""
    shutil.copytree(base, tmp_path / "pretrain")
    monkeypatch.chdir(tmp_path)
    run(configured(Path("pretrain"), chats, Path("relative")), runtime)
    config = json.loads(Path("relative/step_00000002/adapter_config.json").read_text(encoding="utf-8"))
    named = config["base_model_name_or_path"]
    assert Path(named).is_absolute() and (Path(named) / "config.json").is_file()
