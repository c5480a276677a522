"""The page of a run's report: what it says, for which runs, in which language, and that nothing planted breaks it."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from page_fixtures import ATTACK, browser  # noqa: F401
from run_report_fixtures import Write, lines, record

from babyllm.__main__ import run as babyllm
from babyllm.errors import UserError
from babyllm.run_report.run_page import PAGE, earlier_runs, write_run_report
from babyllm.run_report.translation import CHINESE
from babyllm.training.recording.log import RunLog
from babyllm.training.stages.fine_tuning_config import FineTuneConfig
from babyllm.training.stages.policy.grpo_config import GrpoConfig
from babyllm.training.stages.policy.ppo_config import PpoConfig
from babyllm.training.stages.preference.classifier_config import ClassifierConfig
from babyllm.training.stages.preference.dpo_config import DpoConfig
from babyllm.training.stages.preference.reward_config import RewardConfig

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ODD = f"</script><!-- {ATTACK} \u2028\u202e\x00\x1b[31m\ud800 {{{{ run }}}} {{% raw %}} &lt; </style> \"'"
PAGE_BYTES = 2_000_000


class Elements(HTMLParser):
    """The elements of a page, and its visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.tag = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.tag = tag

    def handle_data(self, data: str) -> None:
        if self.tag not in ("script", "style"):
            self.text.append(data)


def elements(page: Path) -> Elements:
    """The elements of a report, which names nothing outside the file and runs nothing but its own script."""
    text = page.read_text(encoding="utf-8")
    assert len(text) < PAGE_BYTES
    found = Elements()
    found.feed(text)
    tags = [tag for tag, _ in found.found]
    assert not {"img", "iframe", "link", "object", "embed", "form", "base", "i", "a"} & set(tags)
    assert tags.count("script") == tags.count("figure") + 1 and tags.count("style") == 1
    for _, attributes in found.found:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "href", "action")]
    return found


def shown(page: Path) -> str:
    return " ".join(" ".join(elements(page).text).split())


def test_a_report_says_what_a_run_was_and_did(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Command, figures with errors, samples, what was said, cost; the page stands alone and is the same each time."""
    run = write()
    babyllm(["report", str(run), "--language=en"])
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    text = shown(run / "report.html")
    for part in (
        *("mine", "step 100 / 100", "state finished", "stage pretrain", "tokens read 100,000", "--plan.steps=100"),
        *("held-out bits per byte 2 ", "time in steps 3 min 20 s", "processor hours, one per process 0.111"),
        *("waiting for data, share 25.0 %", "utilisation, share 30.0 %", "text 1 of 100", "steps skipped 1"),
        *("it read rows 1 to 2, and is skipped", "A processor", "No licence is recorded", "energy not measured"),
    ):
        assert part in text, part
    assert text.count("it read rows 1 to 2") == 1
    assert "shape of the model" not in text.partition("What is missing")[0]
    before = (run / "report.html").read_bytes()
    babyllm(["report", str(run), "--language=en", f"--out={tmp_path / 'other.html'}"])
    assert (tmp_path / "other.html").read_bytes() == before


def test_a_report_is_in_the_language_of_the_reader(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the flag, else by the locale; every text of the template and every name of a fact has its Chinese."""
    run = write()
    for variable in ("LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    text = shown(write_run_report(run))
    for part in (
        "训练报告",
        "曲线",
        "留出集结果",
        "训练中的样例",
        "跳过的部分与原因",
        "开销",
        "已完成",
        "3 分 20 秒",
        "未测量",
    ):
        assert part in text, part
    monkeypatch.setenv("LANG", "C.UTF-8")
    assert "Held-out results" in shown(write_run_report(run))
    assert "留出集结果" in shown(write_run_report(run, language="zh"))
    labels = re.findall(r'"([^"]+)" \| label', (PAGE / "run.html").read_text(encoding="utf-8"))
    sections = (PAGE.parent / "sections.py").read_text(encoding="utf-8")
    labels += re.findall(r'\(\s*"([a-z][^"]+)", ', sections) + re.findall(r'_table\("([^"]+)"', sections)
    assert len(labels) > 50
    assert [label for label in labels if label not in CHINESE and label != "data"] == []


@pytest.mark.parametrize(
    ("stage", "kind"),
    [
        ("sft", FineTuneConfig),
        ("reward", RewardConfig),
        ("classifier", ClassifierConfig),
        ("dpo", DpoConfig),
        ("ppo", PpoConfig),
        ("grpo", GrpoConfig),
    ],
)
def test_every_stage_has_a_report(write: Write, stage: str, kind: type) -> None:
    """With its command; a policy shows its reward and divergence in place of its loss."""
    run = write(stage, kind, n=30)
    if stage in ("ppo", "grpo"):
        extra = {"rollout/reward": 0.5, "rollout/answer_kl": 0.1, "val/all/reward": 0.4, "val/all/reward_stderr": 0.05}
        lines(run / "metrics.jsonl", [record(step, **extra) for step in range(1, 31)])
    text = shown(write_run_report(run, language="en"))
    assert f"babyllm {stage} \\ --plan.steps=100" in text and f"stage {stage}" in text
    assert ("divergence from the reference" in text and "0.4 ± 0.05" in text) == (stage in ("ppo", "grpo"))


@pytest.mark.parametrize(
    "name", ["config.yaml", "environment.json", "metrics.jsonl", "samples.jsonl", "messages.jsonl"]
)
def test_a_missing_or_damaged_part_costs_itself_alone(write: Write, name: str) -> None:
    """As in runs that were killed or are of an earlier version; the page says what is missing."""
    run = write()
    (run / name).write_bytes(b"[not\n\xff what it was\n{}\n[[[[")
    assert "</html>" in write_run_report(run, language="en").read_text(encoding="utf-8")
    (run / name).unlink()
    text = shown(write_run_report(run, language="en"))
    assert "What is missing" in text and ("no such file" in text or name == "messages.jsonl")
    kept = {"metrics.jsonl": "text 1 of 100", "samples.jsonl": "held-out bits per byte"}.get(name, "Held-out results")
    assert kept in text


def test_a_run_that_has_not_ended_has_a_report(write: Write, tmp_path: Path) -> None:
    """Killed in a line, with no record yet, or with nothing but its settings."""
    run = write(n=45)
    lines(run / "messages.jsonl", [{"step": 0, "total_steps": 100, "text": "begun"}])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"broken"\n{"step": 46, "lo')
    text = shown(write_run_report(run, language="en"))
    assert "step 45 / 100" in text and "not ended" in text and "damaged lines in metrics.jsonl 1" in text
    for name in ("metrics.jsonl", "samples.jsonl", "messages.jsonl"):
        (run / name).write_text("")
    assert "fewer than two records" in shown(write_run_report(run, language="en"))


def test_settings_of_another_version_are_told_as_they_are(write: Write) -> None:
    """The stage is known by most of its names; a command that this version does not know is left out."""
    run = write()
    text = (run / "config.yaml").read_text().replace("keep_every: 0\n", "").replace("best: all/loss", "gone: 3")
    (run / "config.yaml").write_text(text)
    page = shown(write_run_report(run, language="en"))
    assert "stage pretrain" in page and "another version" in page and "gone: 3" in page


def test_runs_are_compared(write: Write) -> None:
    """Figures, results and differing settings stand side by side, and the curves in one figure."""
    run, other = write("a"), write("b", n=60, flags=("--plan.peak_lr=0.5",))
    text = shown(write_run_report(run, [other, other], language="en"))
    assert "settings that differ" in text and "plan.peak_lr 0.003 0.5" in text and "last step 100 60 60" in text
    assert "b (2)" in text
    sft = write("sft", FineTuneConfig)
    assert earlier_runs(run) == [other.resolve()] and earlier_runs(sft) == []


def test_what_is_not_a_run_is_refused(write: Write, tmp_path: Path) -> None:
    """In one line that names the path."""
    for place in (tmp_path, tmp_path / "nowhere", Path(__file__)):
        with pytest.raises(UserError, match="is not a run; give the directory") as error:
            write_run_report(place)
        assert str(place) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="name another file with --out"):
        write_run_report(write(), out=tmp_path / "no" / "folder" / "report.html")


def planted(write: Write) -> Path:
    """A run whose every text is hostile: markup, control characters, a million characters."""
    run = write("attacked")
    long = "字" * 1_000_000
    lines(
        run / "metrics.jsonl",
        [
            {**record(step, **{ODD: step, f"val/{ODD}/bpb": 3.0, f"x{long[:9000]}": step}), "note": ODD, "big": 10**400}
            for step in range(1, 60)
        ],
    )
    samples = [{"step": step, "name": f"sample/{ODD}", "text": ODD + long} for step in (20, 40)]
    lines(run / "samples.jsonl", [*samples, {"step": 60, "name": "wide", "text": "x" * 5000}, {"step": "4"}, []])
    lines(run / "messages.jsonl", [{"step": 1, "text": ODD + long}, {"step": 2, "text": 7}])
    config = (run / "config.yaml").read_text() + f"prompts: [{json.dumps(ODD)}]\n{json.dumps(ODD)}: {json.dumps(ODD)}\n"
    (run / "config.yaml").write_text(config.replace("prompts:\n- 今天", "other:\n- 今天"))
    (run / "environment.json").write_text(json.dumps({"cpu": ODD, "gpus": [ODD, long], "world_size": "many"}))
    store = run / "conversations"
    store.mkdir()
    values: dict[str, Any] = {"name": ODD, "paths": [ODD], "licence": ODD, "source": long}
    (store / "data_sets.json").write_text(json.dumps([values]))
    table = {"title": ODD, "columns": [ODD, "share"], "rows": [[ODD, 0.5]] * 3000}
    (store / "report.json").write_text(json.dumps({"title": ODD, "facts": [[ODD, long]], "tables": [table]}))
    return run


def test_what_is_planted_changes_nothing(write: Write) -> None:
    """Markup stays text, control characters are written as code points, long texts are cut, in both languages."""
    run = planted(write)
    for language in ("en", "zh"):
        page = write_run_report(run, [run], language=language)  # type: ignore[arg-type]
        text = shown(page)
        assert '<img src=x onerror="window.hacked=1">' in text and "⟨U+202E⟩" in text and "⟨U+001B⟩[31m" in text
        assert "{{ run }}" in text and "more" not in text.partition("字" * 400)[0][-5:]
        assert "\x1b" not in page.read_text(encoding="utf-8") and "字" * 2000 not in text


def test_a_browser_shows_the_report_on_a_phone(write: Write, browser: "Browser") -> None:  # noqa: F811
    """Nothing planted runs, nothing is fetched, nothing is wider than the screen; values show, and curves hide."""
    for run, names in ((planted(write), ()), (write("calm"), ("training loss, nats",))):
        page_file = write_run_report(run, language="en")
        context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark")
        page = context.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))  # noqa: B023
        page.on("console", lambda said: wrong.append(said.text))  # noqa: B023
        page.on("request", lambda sent: None if sent.url.startswith("file:") else wrong.append(sent.url))  # noqa: B023
        page.goto(page_file.as_uri())
        assert page.evaluate("window.hacked") is None
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        figure = page.locator("figure").first
        figure.locator(".plot").hover()
        assert float(figure.locator(".legend b").first.inner_text().replace(",", "")) > 0
        button = figure.locator(".legend button").first
        button.click()
        assert button.get_attribute("aria-pressed") == "false" and not figure.locator(".plot g").first.is_visible()
        assert [name for name in names if name not in page.inner_text("body")] == []
        context.close()
        assert wrong == []


def test_a_report_that_cannot_be_written_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run says so, and its records are closed as ever; later the command writes the report."""
    log = RunLog(tmp_path / "run", start_step=0, total_steps=2, live=False)
    (tmp_path / "run" / "report.html").mkdir()
    for step in (1, 2):
        log.record(step, {"loss": 3.0 - step, "lr": 0.1})
    log.end("finished at step 2 of 2")
    log.close()
    assert "the report was not written" in capsys.readouterr().out and (tmp_path / "run" / "loss.png").is_file()
    shutil.rmtree(tmp_path / "run" / "report.html")
    log.report()
    assert capsys.readouterr().out == "" and "</html>" in (tmp_path / "run" / "report.html").read_text()
