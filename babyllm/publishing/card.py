"""A model card: README.md with Hugging Face's header, made from the files of a model and its run.

source (step, run, Hugging Face directory, adapter) -> RunFacts, config.json -> sections -> README.md, curve.png

A section whose files are missing is left out, so a model from elsewhere has a card too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from babyllm.config.json_fields import Fields, read_json
from babyllm.errors import UserError
from babyllm.files import write_bytes
from babyllm.progress import format_duration
from babyllm.publishing.loading_help import Use, loading_help
from babyllm.publishing.model_files import (
    ADAPTER_CONFIG,
    CARD,
    CONFIG,
    CURVE,
    model_files,
    parameter_count,
    source_directory,
)
from babyllm.run_report.run_facts import RunFacts, read_run
from babyllm.training.recording.plot import plot_losses

Hub = Literal["huggingface", "modelscope"]
MEASURES = {"bpb": "bits per byte", "loss": "loss (nats per token)", "accuracy": "accuracy"}
_KINDS = (
    ("A language model", "语言模型"),
    ("A chat model", "对话模型"),
    ("A classifier or reward model", "分类或奖励模型"),
    ("A LoRA adapter", "LoRA 适配器"),
)
_SHAPE = {
    "num_hidden_layers": "layers",
    "hidden_size": "width",
    "num_attention_heads": "attention heads",
    "num_key_value_heads": "key-value heads",
    "head_dim": "head width",
    "intermediate_size": "feed-forward width",
    "vocab_size": "vocabulary",
    "max_position_embeddings": "context, tokens",
}
_MACHINE = {
    "cpu": "processor",
    "cores": "cores",
    "gpus": "GPUs",
    "world_size": "processes",
    "platform": "system",
    "python": "Python",
    "torch": "PyTorch",
    "babyllm": "babyllm",
}


@dataclass(frozen=True)
class CardOptions:
    """What the files of a model do not say.

    Attributes:
        license: license of the model, such as apache-2.0 or mit; null names none.
        language: codes of its languages, such as [zh, en]; an empty list takes those of the run's samples.
        base_model: OWNER/NAME on the hub of the model that an adapter or fine-tuned model was made from.
        tags: further tags.
    """

    license: str | None = None
    language: list[str] = field(default_factory=list)
    base_model: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Described:
    """A model as its own files describe it.

    Attributes:
        config: contents of config.json; empty if there is none.
        adapter: contents of adapter_config.json; empty for a whole model.
        names: names of the files that the card is written for.
        parameters: number of values in the files with weights; 0 if unknown.
        chats: whether a chat template is stored.
        tokenizer: library of the tokenizer.
    """

    config: dict[str, Any]
    adapter: dict[str, Any]
    names: list[str]
    parameters: int
    chats: bool
    tokenizer: str

    @property
    def is_classifier(self) -> bool:
        """Whether the model returns scores and not text."""
        return "ForSequenceClassification" in str(self.config.get("architectures"))


def write_card(
    target: Path, source: Path, options: CardOptions | None = None, *, name: str | None = None, hub: Hub = "huggingface"
) -> None:
    """Write README.md, and curve.png if losses were recorded, into a folder with a model.

    Args:
        target: existing folder for the card; the card explains how to load the files in it.
        source: run, step, adapter or Hugging Face directory that the model came from; may be `target`.
        options: what the files do not say.
        name: OWNER/NAME of the model on the hub; None takes the name of `target`.
        hub: hub that the card is for.

    Raises:
        UserError: a file of the model or of its run is damaged, or the card cannot be written.
    """
    options, source = options or CardOptions(), source_directory(source)
    facts, described = read_run(source), _described(target, source)
    title = name or target.resolve().name
    try:
        if facts and facts.has_curve:
            plot_losses(facts.run_dir, target=target / CURVE)
        lines = [*_header(described, facts, options, hub), *_body(described, facts, title, hub)]
        write_bytes(target / CARD, "\n".join([*lines, ""]).encode(errors="replace"))
    except OSError as error:
        raise UserError(f"{target / CARD}: cannot be written ({error.strerror})") from error


def _described(target: Path, source: Path) -> Described:
    names = model_files(target) or model_files(source)
    place = target if (target / CONFIG).is_file() or (target / ADAPTER_CONFIG).is_file() else source
    found = {name: read_json(place / name) if (place / name).is_file() else {} for name in (CONFIG, ADAPTER_CONFIG)}
    settings = place / "tokenizer_config.json"
    has_template = settings.is_file() and Fields(read_json(settings), str(settings)).has("chat_template")
    chats = (place / "chat_template.jinja").is_file() or has_template
    library = "SentencePiece" if (place / "tokenizer.model").is_file() else "tokenizers"
    return Described(found[CONFIG], found[ADAPTER_CONFIG], names, parameter_count(place), chats, library)


# ---- the header


def _header(described: Described, facts: RunFacts | None, options: CardOptions, hub: Hub) -> list[str]:
    task = "text-classification" if described.is_classifier else "text-generation"
    has_weights = any(name.endswith(".safetensors") for name in described.names)
    library = "peft" if described.adapter else "transformers" if has_weights else "gguf"
    tags = ["babyllm", *(["gguf"] if any(n.endswith(".gguf") for n in described.names) else []), *options.tags]
    header = {
        "license": options.license,
        "language": options.language or list(facts.languages if facts else ()),
        "pipeline_tag": task,
        "library_name": library,
        "base_model": options.base_model,
        "tags": list(dict.fromkeys(tags)),
    }
    if hub == "modelscope":
        header |= {"tasks": [task], "frameworks": ["Pytorch"]}
    known = {key: value for key, value in header.items() if value}
    return ["---", yaml.safe_dump(known, sort_keys=False, allow_unicode=True).rstrip(), "---", ""]


# ---- the sections


def _body(described: Described, facts: RunFacts | None, title: str, hub: Hub) -> Iterator[str]:
    yield from [f"# {title.rpartition('/')[2]}", "", _summary(described, facts), "", _chinese(described, facts), ""]
    sections = {
        "Use": loading_help(described.names, title, hub, _use(described)),
        "Shape": _shape(described),
        **(
            {"Data": _data(described, facts), "Results": _results(facts), "Training": _training(facts)} if facts else {}
        ),
    }
    for heading, lines in sections.items():
        if lines:
            yield from [f"## {heading}", "", *lines, ""]
    yield "This card was written by babyllm from the files of the model and its run."


def _use(described: Described) -> Use:
    if described.is_classifier:
        return "classifier"
    if described.chats:
        return "chat"
    # A model whose texts begin with <eos> was trained on documents that <eos> separates.
    begins_with_eos = described.config.get("bos_token_id") == described.config.get("eos_token_id") is not None
    return "documents" if begins_with_eos else "text"


def _kind(described: Described) -> int:
    """The index of what the model is in `_KINDS`."""
    return 3 if described.adapter else 2 if described.is_classifier else 1 if described.chats else 0


def _summary(described: Described, facts: RunFacts | None) -> str:
    size = f" with {described.parameters:,} parameters" if described.parameters else ""
    trained = (
        f", trained with babyllm on {facts.tokens:,} tokens in {facts.step:,} steps" if facts and facts.tokens else ""
    )
    return f"{_KINDS[_kind(described)][0]}{size}{trained}."


def _chinese(described: Described, facts: RunFacts | None) -> str:
    size = f"，参数量 {described.parameters:,}" if described.parameters else ""
    trained = f"，用 babyllm 训练了 {facts.step:,} 步，共 {facts.tokens:,} 个 token" if facts and facts.tokens else ""
    bits = facts.held_out.get("all", {}).get("bpb") if facts else None
    result = f"，在留出文本上为每字节 {bits:.3f} 比特" if bits is not None else ""
    return f"**中文简介**：{_KINDS[_kind(described)][1]}{size}{trained}{result}。加载方法见下面的 Use。"


def _shape(described: Described) -> list[str]:
    rows = [[label, described.config[key]] for key, label in _SHAPE.items() if described.config.get(key) is not None]
    if described.adapter:
        rows += [["rank", described.adapter.get("r")], ["alpha", described.adapter.get("lora_alpha")]]
    if described.parameters:
        rows.insert(0, ["parameters", described.parameters])
    return _table(["", "value"], rows)


def _data(described: Described, facts: RunFacts) -> list[str]:
    if facts.data is None:
        return _data_sets(facts)
    vocabulary = f"The tokenizer ({described.tokenizer}) has {facts.data.vocab_size:,} tokens."
    return [*_table(facts.data.columns, facts.data.rows), "", vocabulary, *_data_sets(facts)]


def _data_sets(facts: RunFacts) -> list[str]:
    """The data sets of a registry, with the licences that it names."""
    rows = [
        [one.name, one.records, sum(one.train.values()), sum(one.val.values()), one.licence or "not stated", one.source]
        for one in facts.data_sets
    ]
    table = _table(["data set", "records", "trained on", "held out", "licence", "source"], rows)
    return ["", *table] if table else []


def _results(facts: RunFacts) -> list[str]:
    found = [measure for measure in MEASURES if any(measure in values for values in facts.held_out.values())]
    rows = [[domain, *(values.get(m) for m in found)] for domain, values in facts.held_out.items()]
    held_out = [*_table(["held out", *(MEASURES[m] for m in found)], rows), ""] if found else []
    figures = {
        "training loss (nats per token)": None if facts.loss is None else round(facts.loss, 4),
        "tokens": facts.tokens or None,
        "tokens per second": facts.tokens_per_s and round(facts.tokens_per_s),
        "time in training steps": facts.seconds and format_duration(facts.seconds),
    }
    lines = [*held_out, *_table(["", "value"], [[k, v] for k, v in figures.items() if v is not None])]
    return [*lines, "", f"![losses and learning rate by step]({CURVE})"] if facts.has_curve else lines


def _training(facts: RunFacts) -> list[str]:
    lines: list[str] = []
    if facts.command:
        lines += ["The command, with all values that differ from the defaults:", "", *_code(facts.command, "sh"), ""]
    if facts.config:
        text = yaml.safe_dump(facts.config, sort_keys=False, allow_unicode=True).rstrip()
        lines += ["<details><summary>Configuration</summary>", "", *_code(text, "yaml"), "", "</details>", ""]
    machine = [[label, _plain(facts.environment[key])] for key, label in _MACHINE.items() if facts.environment.get(key)]
    return [*lines, *_table(["machine", ""], machine)]


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _code(text: str, language: str) -> list[str]:
    fence = "```"
    while fence in text:
        fence += "`"
    return [f"{fence}{language}", text, fence]


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    if not rows:
        return []
    lines = [list(columns), ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else str(value).replace("|", r"\|").replace("\n", " ")
