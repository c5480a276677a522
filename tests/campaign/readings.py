"""What reads files: commands and scripts over a damaged copy of a folder, and what of their results must not change."""

from __future__ import annotations

from dataclasses import dataclass

from tests.campaign.bench import LIMIT_S, Bench, Ended
from tests.campaign.materials import LORA, PRETRAIN, SFT, filled


@dataclass(frozen=True)
class Reading:
    """Something that reads a folder.

    Attributes:
        material: what is copied to `at` in the drill's folder, and damaged.
        files: patterns of the files that may be damaged; what stands twice is damaged twice as often.
        arguments: Arguments of the command or script, run beside `at`; see `materials.filled`.
        results: patterns of the files whose bytes are the result; without any it is what was printed.
        script: whose arguments they are; without one they are the command's.
        is_raw: whether the files are a user's own, which carry no checksum: only how reading ends counts.
    """

    material: str
    files: tuple[str, ...]
    arguments: tuple[str, ...]
    results: tuple[str, ...] = ()
    script: str = ""
    is_raw: bool = False

    def run(self, bench: Bench) -> Ended:
        """How the job ended, and what it printed."""
        arguments = [filled(bench, argument) for argument in self.arguments]
        if self.script:
            return bench.start("training", *arguments, name=self.script).ended(LIMIT_S)
        return bench.start("command", *arguments).ended(LIMIT_S)

    def result(self, bench: Bench, ended: Ended) -> dict[str, bytes]:
        """What must not change, by name."""
        if not self.results:
            return {"what it printed": ended.output.encode()}
        found = {path for pattern in self.results for path in bench.folder.glob(pattern)}
        return {str(path.relative_to(bench.folder)): path.read_bytes() for path in sorted(found)}


def _command(material: str, files: str, line: str, results: str = "", is_raw: bool = False) -> Reading:
    return Reading(material, tuple(files.split()), tuple(line.split()), tuple(results.split()), is_raw=is_raw)


def _training(
    material: str, files: str, script: str, *flags: str, run_dir: str = "at", is_raw: bool = False
) -> Reading:
    more = (f"--run_dir={run_dir}", f"--plan.steps={LAST}", "--save_every=6", "--eval_every=6")
    results = (f"{run_dir}/step_{LAST:08d}/*model.safetensors",)
    return Reading(material, tuple(files.split()), (*flags, *more), results, script, is_raw)


LAST = 12  # step of the runs
_ONE = "--work.workers=1"
_STEP = "step_00000006/*"
_RUN = f"{_STEP} {_STEP} metrics.jsonl samples.jsonl config.yaml environment.json latest events.*"
_STORED = f"{_RUN} conversations/*.bin conversations/*.bin conversations/*"
_CORPUS = "*.parquet *.parquet *.parquet corpus.json"
_TOKENS = "*.bin *.bin *.bin manifest.json tokenizer*"
_PRETRAIN, _SFT = "train_pretrain.py", "train_sft.py"
_PRETRAIN_FLAGS, _SFT_FLAGS = ("--data.path={tokens}", *PRETRAIN), ("--data.path={chats}", *SFT)
_TUNE = ("--init_from={pretrained}", *_SFT_FLAGS)

READINGS: dict[str, Reading] = {
    "corpus: dedup": _command("corpus", _CORPUS, f"dedup at out {_ONE}", "out/*.parquet"),
    "corpus: tokenize": _command(
        "corpus", _CORPUS, f"tokenize at out --tokenizer={{tokenizer}} {_ONE}", "out/*.bin out/manifest.json"
    ),
    "corpus: train-tokenizer": _command(
        "corpus", _CORPUS, f"train-tokenizer at out --vocab_size=340 {_ONE}", "out/tokenizer.*"
    ),
    "tokenizer: tokenize": _command(
        *("tokenizer", "tokenizer*", f"tokenize {{raw}}/plain.jsonl out --tokenizer=at {_ONE}"),
        "out/*.bin out/manifest.json",
    ),
    "tokens: pretrain": _training("tokens", _TOKENS, _PRETRAIN, "--data.path=at", *PRETRAIN, run_dir="out"),
    "tokens: eval": _command("tokens", _TOKENS, "eval {pretrained} --data=at --json=out.json", "out.json"),
    "pretrained: resume": _training("pretrained", _RUN, _PRETRAIN, *_PRETRAIN_FLAGS),
    "pretrained: fine-tune": _training("pretrained", _STEP, _SFT, "--init_from=at", *_SFT_FLAGS, run_dir="out"),
    "pretrained: generate": _command("pretrained", _STEP, "generate at ab --max_new_tokens=40 --seed=1"),
    "tuned: resume": _training("tuned", _STORED, _SFT, *_TUNE),
    "tuned: eval": _command("tuned", f"{_STEP} conversations/*", "eval at --json=out.json", "out.json"),
    "packed: resume": _training("packed", _STORED, _SFT, *_TUNE, "--data.pack"),
    "adapted: resume": _training("adapted", f"{_STORED} base/* base/*", _SFT, *_TUNE, *LORA),
    "adapted: merge-lora": _command("adapted", f"{_STEP} base/* base/*", "merge-lora at out", "out/*"),
    "exported: generate": _command("exported", "*.json *", "generate at ab --max_new_tokens=40 --seed=1", is_raw=True),
    "chats: fine-tune": _training(
        "chats", "*", _SFT, "--init_from={pretrained}", "--data.path=at", *SFT, run_dir="out", is_raw=True
    ),
    "raw: clean": _command("raw", "*", f"clean at out {_ONE}", is_raw=True),
    "raw: tokenize": _command("raw", "*", f"tokenize at out --tokenizer={{tokenizer}} {_ONE}", is_raw=True),
}
