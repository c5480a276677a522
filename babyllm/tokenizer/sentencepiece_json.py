"""Turn a SentencePiece model into a `tokenizer.json` that gives the same ids.

    tokenizer.model -> ModelProto -> vocabulary, merges, normalizer, decoder -> tokenizer.json

SentencePiece stores no merges: it joins the neighbours whose union scores highest, the leftmost first. What becomes one
piece was never joined with anything outside, so its inside was joined in the same order as if it stood alone: whatever
the text, a piece is made of the same two parts. One merge for each piece, in order of score, is the whole table.
"""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from itertools import pairwise
from typing import Any

from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from babyllm.errors import UserError

SPACE = "▁"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2
# What a unigram model gives user-defined pieces, whatever its file says.
USER_DEFINED_SCORE = -0.1
NEVER = float("-inf")


def parse_model(model: bytes, where: str) -> Any:
    """Parse a SentencePiece model into its `ModelProto`.

    Args:
        model: the bytes of a `.model` file which SentencePiece has loaded.
        where: how messages name that file.

    Raises:
        UserError: it is empty or of a kind that `tokenizer.json` cannot express.
    """
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made when it is imported
    proto.ParseFromString(model)
    if not proto.pieces:
        raise UserError(f"{where} is not a SentencePiece model: it holds no pieces")
    if proto.trainer_spec.model_type not in (UNIGRAM, BPE):
        raise UserError(f"{where} is a word or character model; only BPE and unigram models are read")
    if proto.trainer_spec.treat_whitespace_as_suffix or not proto.normalizer_spec.escape_whitespaces:
        raise UserError(f"{where} was trained with whitespace as suffix or unescaped, which is not supported")
    return proto


def tells_spaces_apart(proto: Any) -> bool:
    """Whether U+2581 in a text is spelled in bytes, which it can be where nothing is changed before the encoding.

    That holds for the models trained here. Elsewhere it is read as a space, as SentencePiece itself reads it.
    """
    spec = proto.normalizer_spec
    normalizes = spec.precompiled_charsmap or spec.add_dummy_prefix or spec.remove_extra_whitespaces
    return bool(proto.trainer_spec.byte_fallback and not normalizes)


def to_tokenizer_json(proto: Any) -> str:
    """Text of a `tokenizer.json` that encodes plain text to the ids SentencePiece gives for `proto`.

    There U+2581 in a text is always read as a space: `tokenizers` spells in bytes only what is no piece, and many tools
    take U+2581 in pieces for the space, so no other character can stand for it.

    Warns:
        UserWarning: the model holds something that `tokenizers` cannot express, so ids may differ for some texts.
    """
    is_bpe = proto.trainer_spec.model_type == BPE
    tokenizer = Tokenizer(_bpe(proto) if is_bpe else _unigram(proto))
    steps = _normalizers(proto.normalizer_spec)
    tokenizer.normalizer = normalizers.Sequence(steps) if len(steps) > 1 else steps[0]
    if not is_bpe:
        tokenizer.pre_tokenizer = _unreachable(proto)
    strip = [decoders.Strip(" ", 1, 0)] if proto.normalizer_spec.add_dummy_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    special = [p.piece for p in proto.pieces if p.type in (UNKNOWN, CONTROL)]
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in special])
    user_defined = [p.piece for p in proto.pieces if p.type == USER_DEFINED and is_bpe]
    tokenizer.add_tokens([AddedToken(piece, special=False, normalized=True) for piece in user_defined])
    doubts = _doubts(proto)
    if doubts:
        warnings.warn(
            f"tokenizer.json may split some texts otherwise than tokenizer.model: {'; '.join(doubts)}", stacklevel=2
        )
    return with_plain_merges(tokenizer.to_str())


def with_plain_merges(text: str) -> str:
    """A `tokenizer.json` whose merges are texts, "a b", as every version of `tokenizers` reads them.

    Versions before 0.20, and with them transformers before 4.45, do not read the pairs that newer ones write. Where a
    part holds a space only pairs can tell the two apart, so they stay.
    """
    content = json.loads(text)
    merges = content["model"].get("merges", [])
    if not all(isinstance(pair, list) and not any(" " in part for part in pair) for pair in merges):
        return text
    if merges:
        content["model"]["merges"] = [" ".join(pair) for pair in merges]
    return json.dumps(content, ensure_ascii=False, indent=2)


def _bpe(proto: Any) -> models.BPE:
    vocabulary = {p.piece: i for i, p in enumerate(proto.pieces)}
    scores = _mergeable(proto)
    ranked = []
    for piece, score in scores.items():
        parts = _last_two_parts(piece, scores)
        if len(parts) == 2 and all(part in vocabulary for part in parts):
            # Equal scores go to the longer piece, as where the leftmost pair is joined first and then grows: this is
            # how Llama 2 holds its runs of spaces.
            ranked.append((-score, -len(piece), parts))
    ranked.sort(key=lambda entry: entry[:2])
    return models.BPE(
        vocab=vocabulary,
        merges=[(parts[0], parts[1]) for _, _, parts in ranked],
        unk_token=next(p.piece for p in proto.pieces if p.type == UNKNOWN),
        fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
    )


def _mergeable(proto: Any) -> dict[str, float]:
    """Pieces that merging can make, by score. User-defined pieces are cut out of the text before."""
    return {p.piece: p.score for p in proto.pieces if p.type in (NORMAL, UNUSED)}


def _last_two_parts(piece: str, scores: dict[str, float]) -> list[str]:
    """What `piece` consists of before its last merge; not two parts if merging never arrives at it."""
    parts = list(piece)
    while len(parts) > 2:
        joined = [scores.get(left + right, NEVER) for left, right in pairwise(parts)]
        best = max(joined)
        if best == NEVER:
            break
        i = joined.index(best)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def _unigram(proto: Any) -> models.Unigram:
    scores = [(p.piece, USER_DEFINED_SCORE if p.type == USER_DEFINED else p.score) for p in proto.pieces]
    unknown = next(i for i, p in enumerate(proto.pieces) if p.type == UNKNOWN)
    return models.Unigram(scores, unk_id=unknown, byte_fallback=proto.trainer_spec.byte_fallback)


def _unreachable(proto: Any) -> pre_tokenizers.PreTokenizer:
    """Cut what looks like a control or byte piece in two, behind the longest piece that it begins with.

    `tokenizers` finds such pieces in the text like any other, SentencePiece does not.
    """
    normal = {p.piece for p in proto.pieces if p.type == NORMAL}
    patterns = []
    for name in (p.piece for p in proto.pieces if p.type in (UNKNOWN, CONTROL, BYTE) and len(p.piece) > 1):
        cut = max((k for k in range(1, len(name)) if name[:k] in normal), default=1)
        head, tail = ("".join(f"\\x{{{ord(c):x}}}" for c in part) for part in (name[:cut], name[cut:]))
        patterns.append(f"{head}(?={tail})")
    return pre_tokenizers.Split(Regex("|".join(patterns)), "merged_with_previous")


def _normalizers(spec: Any) -> list[normalizers.Normalizer]:
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    return [*steps, normalizers.Replace(" ", SPACE)]


def _doubts(proto: Any) -> list[str]:
    """Reasons, if any, why ids may differ between the two libraries."""
    doubts = []
    types = {p.type for p in proto.pieces}
    if proto.normalizer_spec.precompiled_charsmap:
        doubts.append("its normaliser joins combining characters, which tokenizers does in part")
    if UNUSED in types:
        doubts.append("it has unused pieces")
    if proto.trainer_spec.model_type == UNIGRAM:
        return [*doubts, "it is a unigram model, where rounding decides between equally likely splits"]
    if USER_DEFINED in types and proto.normalizer_spec.add_dummy_prefix:
        doubts.append("it has user-defined pieces and adds a prefix space")
    scores = _mergeable(proto)
    if any(character not in scores for piece in scores for character in piece):
        doubts.append("it has pieces with characters that are not pieces themselves")
    # tokenizers has no equal ranks: the order of equals is right within runs of one character only.
    equals: defaultdict[float, list[str]] = defaultdict(list)
    for piece, score in scores.items():
        if len(piece) > 1:
            equals[score].append(piece)
    n_equal = sum(len(group) for group in equals.values() if len(group) > 1 and len(set("".join(group))) > 1)
    if n_equal:
        doubts.append(f"{n_equal} of its pieces share their score with others")
    return doubts
