"""`babyllm eval --texts`: perplexity, bits per byte and bits per character of models on raw texts."""

from __future__ import annotations

from collections.abc import Sequence

from babyllm.commands.use.evaluations.flags import Flags
from babyllm.errors import UserError
from babyllm.evaluate.language.comparison import TextSettings, score_models
from babyllm.evaluate.language.text_report import raw_text_evaluation
from babyllm.evaluate.report import Evaluation
from babyllm.evaluate.tasks.evaluated_models import named_models
from babyllm.pipeline.report import Fact
from babyllm.runtime import Runtime


def on_texts(flags: Flags, directories: Sequence[str], runtime: Runtime) -> Evaluation:
    """Perplexity and bits per byte and character of all models on the same documents."""
    if flags.data or flags.fit:
        raise UserError("--texts: cannot be combined with --data or --fit; run the command once for each")
    paths = [flags.texts] if isinstance(flags.texts, str) else flags.texts or []
    settings = TextSettings(
        flags.limit, flags.max_bytes, flags.seed, flags.seq_len, flags.stride, read=flags.read, int8=flags.int8
    )
    models = named_models(directories, all_steps=flags.all_steps)
    scores, rejected = score_models({model.key: model.directory for model in models}, paths, settings, runtime)
    facts: list[Fact] = [("texts", ", ".join(paths))]
    facts += [(model.name, model.directory) for model in models if model.name != model.directory]
    if flags.limit or flags.max_bytes:
        facts.append(("chosen with seed", flags.seed))
    facts += [(f"rejected: {reason}", n) for reason, n in sorted(rejected.items())]
    return raw_text_evaluation(scores, facts, {model.key: model.name for model in models})
