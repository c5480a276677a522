"""Near-duplicates in Chinese and English are refused as they come, with a stated recall and precision."""

import json
import os
import random
from pathlib import Path

import opencc
import pytest
from synthesis_fixtures import flags_of, made_by

SFT = Path(os.environ.get("BABYLLM_DATA", "")) / "sft"
KINDS = {"en": ("punctuation", "words"), "zh": ("punctuation", "traditional", "characters")}
MARKS = str.maketrans({"，": ", ", "。": "!", "？": " ?", "：": ":", ",": "，", ".": "...", "?": "？"})
TRADITIONAL = opencc.OpenCC("s2t")
RECIPE = """
about: prompts that are new
source: prompts
steps:
- name: unique
  do: pass_on
  keep: {new: "{prompt}"}
record: {messages: "{messages}"}
"""


def edited(text: str, kind: str, draw: random.Random) -> str:
    """A text that says nearly the same: other punctuation, traditional characters, or one word in twenty another."""
    if kind == "punctuation":
        return text.translate(MARKS).upper()
    if kind == "traditional":
        return str(TRADITIONAL.convert(text))
    parts = list(text) if kind == "characters" else text.split(" ")
    for place in draw.sample(range(len(parts)), max(1, len(parts) // 20)):
        parts[place] = "新" if kind == "characters" else "other"
    return ("" if kind == "characters" else " ").join(parts)


@pytest.mark.skipif(not SFT.is_dir(), reason="needs BABYLLM_DATA")
@pytest.mark.parametrize("language", ["en", "zh"])
def test_planted_near_duplicates_are_refused(language: str, tmp_path: Path) -> None:
    """Of edits, punctuation and traditional characters 95 % are refused; of what is refused, 95 % are such."""
    draw = random.Random(1)
    texts = [
        f"{record['instruction']} {record['input']}".strip()
        for record in json.loads((SFT / f"alpaca_{language}_demo.json").read_text(encoding="utf-8"))
    ]
    originals = list(dict.fromkeys(text for text in texts if len(text) > (30 if language == "en" else 15)))[:300]
    planted = [
        edited(text, KINDS[language][i % len(KINDS[language])], draw)
        for i, text in enumerate(draw.sample(originals, 150))
    ]
    lines = [json.dumps({"id": f"o{i}", "prompt": text}) for i, text in enumerate(originals)]
    lines += [json.dumps({"id": f"p{i}", "prompt": text}) for i, text in enumerate(planted)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    (tmp_path / "unique.yaml").write_text(RECIPE)
    flags = [*flags_of(None, tmp_path, "", language), f"--inputs={tmp_path / 'in.jsonl'}"]
    records, rejected, _ = made_by(tmp_path / "out", str(tmp_path / "unique.yaml"), *flags)
    refused = [line["parents"][0] for line in rejected]
    assert len(records) + len(refused) == len(lines) and {line["reason"] for line in rejected} == {"near-duplicate"}
    n_found = sum(name.startswith("p") for name in refused)
    print(f"{language}: recall {n_found / len(planted):.3f}, precision {n_found / len(refused):.3f}")
    assert n_found >= 0.95 * len(planted) and n_found >= 0.95 * len(refused)
