"""BLEU and chrF by sacrebleu, which is imported when they are first computed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from babyllm.errors import UserError
from babyllm.text.clean.syntax.characters import HAS_HAN


def bleu(answer: str, references: Sequence[str]) -> float:
    """The BLEU of one answer, 0 to 100, as sacrebleu's `sentence_bleu`; the tokenisation is that of `bleu_tokeniser`.

    Raises:
        UserError: sacrebleu is not installed.
    """
    return float(_bleu(bleu_tokeniser(references), True).sentence_score(answer, references).score)


def chrf(answer: str, references: Sequence[str]) -> float:
    """The chrF of one answer, 0 to 100, as sacrebleu's `sentence_chrf`: F2 of 1 to 6 characters without spaces.

    Raises:
        UserError: sacrebleu is not installed.
    """
    return float(_chrf().sentence_score(answer, references).score)


def bleu_tokeniser(references: Sequence[str]) -> str:
    """The tokenisation that sacrebleu uses for an answer: "zh" if a reference has Chinese characters, else "13a"."""
    return "zh" if any(map(HAS_HAN.search, references)) else "13a"


def bleu_counts(answer: str, references: Sequence[str]) -> list[int]:
    """The counts of one answer whose sums over all answers make BLEU."""
    return _counts(_bleu(bleu_tokeniser(references)), answer, references)


def chrf_counts(answer: str, references: Sequence[str]) -> list[int]:
    """The counts of one answer whose sums over all answers make chrF."""
    return _counts(_chrf(), answer, references)


def bleu_of_counts(total: Sequence[int]) -> float:
    """The BLEU of summed counts, 0 to 100, as sacrebleu's `corpus_bleu`."""
    return float(_bleu("13a")._compute_score_from_stats(total).score)  # of any tokenisation


def chrf_of_counts(total: Sequence[int]) -> float:
    """The chrF of summed counts, 0 to 100, as sacrebleu's `corpus_chrf`."""
    return float(_chrf()._compute_score_from_stats(total).score)


def require_sacrebleu() -> Any:
    """The module `sacrebleu.metrics`.

    Raises:
        UserError: it is not installed.
    """
    try:
        import sacrebleu.metrics
    except ImportError:
        raise UserError("BLEU and chrF need sacrebleu: pip install 'babyllm[eval]'") from None
    return sacrebleu.metrics


@cache
def _bleu(tokeniser: str, is_sentence: bool = False) -> Any:
    # `force` turns off a warning about texts that look tokenised.
    return require_sacrebleu().BLEU(tokenize=tokeniser, effective_order=is_sentence, force=True)


@cache
def _chrf() -> Any:
    return require_sacrebleu().CHRF()


def _counts(metric: Any, answer: str, references: Sequence[str]) -> list[int]:
    (counts,) = metric._extract_corpus_statistics([answer], [[reference] for reference in references])
    return list(counts)
