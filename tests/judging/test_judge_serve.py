"""`babyllm judge` with a model that `babyllm serve` serves."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_fixtures import chain
from serve_fixtures import NAME, chatml, load_of, serving

from babyllm.__main__ import run
from babyllm.errors import UserError
from babyllm.model.config import ModelConfig
from babyllm.tokenizer import Tokenizer


def test_the_own_server_judges(
    tmp_path: Path,
    tiny: Callable[..., ModelConfig],
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A served model that always prefers the first answer is seen through; a wrong key or name is one line."""
    torch.set_num_threads(1)
    said = [*tokenizer.encode("结论：A"), tokenizer.special["<|im_end|>"]]
    model = chain(tiny(max_seq_len=4000, n_layers=1, tie_embeddings=False), said)
    for side in "AB":
        lines = [json.dumps({"prompt": f"问 {i}", "prediction": f"{side}{i}"}) for i in range(4)]
        (tmp_path / f"{side}.jsonl").write_text("\n".join(lines))
    judge = ["judge", f"{tmp_path}/A.jsonl", f"{tmp_path}/B.jsonl", f"{tmp_path}/out", "--endpoint.max_tokens=64"]
    monkeypatch.setenv("SERVER_KEY", "open-sesame")
    monkeypatch.setenv("WRONG_KEY", "open-barley")
    with serving(load_of(model, tokenizer, chatml(tokenizer)), api_key="open-sesame") as server:
        url = f"--endpoint.url={server.url}/v1"
        with pytest.raises(UserError, match="answers 401"):
            run([*judge, url, f"--endpoint.model={NAME}", "--endpoint.key_variable=WRONG_KEY"])
        with pytest.raises(UserError, match="answers 404"):
            run([*judge, url, "--endpoint.model=other", "--endpoint.key_variable=SERVER_KEY"])
        run([*judge, url, f"--endpoint.model={NAME}", "--endpoint.key_variable=SERVER_KEY", "--endpoint.seed=1"])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["tables"][0]["rows"][0][:6] == ["as judged", 4, 0, 4, 0, 0.5]
    assert report["tables"][1]["rows"][:2] == [
        ["comparisons whose two orders disagree (ties)", 4, 4, 1.0],
        ["verdicts for the answer shown first", 8, 8, 1.0],
    ]
    assert dict(report["facts"])["tokens written"] >= 8 * (len(said) - 1)
    assert "100.0 %" in capsys.readouterr().out
