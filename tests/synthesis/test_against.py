"""`synth --against`: near-duplicates of an existing set are refused as those of the set's own are."""

import json
from pathlib import Path

import pytest
from fake_endpoint import faking, says
from synthesis_fixtures import check_accounts, flags_of, made_by

from babyllm.errors import UserError

KNOWN = ["今天的天气怎么样，适合去公园散步吗？", "What is the capital city of France, and how many people live there?"]
NEW = ["红烧肉应该怎么做才好吃？", "How does a bicycle stay upright while it is moving?"]
EDITED = ["今天的天氣怎麼樣, 適合去公園散步嗎!", "what is the capital city of France and how many people live there"]


def test_an_existing_set_is_not_repeated(tmp_path: Path) -> None:
    """Edits of its questions are refused before they are asked, with the place of the record that they repeat."""
    chat = {"messages": [{"role": "user", "content": KNOWN[0]}, {"role": "assistant", "content": "适合。"}]}
    records = [chat, {"prompt": KNOWN[1]}]
    (tmp_path / "old.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps({"prompt": text}) for text in [*NEW, *EDITED, NEW[0]]))
    with faking(lambda said, n: says("An answer that says something of its own.")) as server:
        flags = [*flags_of(server, tmp_path, "", "en"), f"--inputs={tmp_path / 'in.jsonl'}", "--endpoint.retries=0"]
        against = f"--against={tmp_path / 'old.jsonl'}"
        made, rejected, report = made_by(tmp_path / "out", "distil", *flags, against)
        assert server.asked.total() == 2 and all(text in "".join(server.asked) for text in NEW)
        check_accounts(made, rejected, report)
        refused = [line for line in rejected if line["reason"] == "near-duplicate"]
        assert [line["detail"].partition(" like ")[2].partition(":")[0] != "" for line in refused] == [True] * 3
        assert [("old.jsonl" in line["detail"]) for line in refused] == [True, True, False]
        assert dict(report["facts"])["against"].endswith("old.jsonl")
        (tmp_path / "empty.jsonl").write_text('{"nothing": 1}\n')
        with pytest.raises(UserError, match=r"--against: .*empty\.jsonl: no conversations or prompts"):
            made_by(tmp_path / "other", "distil", *flags, f"--against={tmp_path / 'empty.jsonl'}")
