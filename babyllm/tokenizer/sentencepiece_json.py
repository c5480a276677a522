"""Conversion of a SentencePiece model into a `tokenizer.json` that encodes to the same ids.

    tokenizer.model -> ModelProto -> vocabulary, merges, normalizer, decoder -> tokenizer.json

SentencePiece stores no merges: it joins the neighbours whose union scores highest, the leftmost first. The characters
of a piece are joined only with each other until the piece is complete, in the same order as if it stood alone. So a
piece is made of the same two parts in every text, and one merge per piece, in order of score, is the whole table.
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
UNIGRAM, BPE, WORD, CHAR = range(1, 5)
# The score of user-defined pieces in a unigram model, whatever its file says.
USER_DEFINED_SCORE = -0.1
NEVER = float("-inf")


def parse_model(model: bytes, where: str) -> Any:
    """Parse a SentencePiece model into its `ModelProto`.

    Args:
        model: bytes of a `.model` file that SentencePiece has loaded.
        where: name of that file in messages.

    Raises:
        UserError: the model is empty or of a kind that `tokenizer.json` cannot express.
    """
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # created on import
    proto.ParseFromString(model)
    if not proto.pieces or not all(isinstance(piece.piece, str) for piece in proto.pieces):
        raise UserError(f"{where} is not a SentencePiece model: it holds no pieces, or one that is not UTF-8 text")
    if not any(piece.type == UNKNOWN for piece in proto.pieces):
        raise UserError(f"{where} is not a SentencePiece model: it has no piece for unknown characters")
    try:
        _normalizers(proto.normalizer_spec)
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{where} is not a SentencePiece model: its normaliser is damaged ({error})") from None
    if proto.trainer_spec.model_type not in (UNIGRAM, BPE, CHAR):
        raise UserError(f"{where} is a model of whole words; only BPE, unigram and character models are read")
    if proto.trainer_spec.treat_whitespace_as_suffix or not proto.normalizer_spec.escape_whitespaces:
        raise UserError(f"{where} was trained with whitespace as suffix or unescaped, which is not supported")
    return proto


def tells_spaces_apart(proto: Any) -> bool:
    """Whether U+2581 in a text is encoded as bytes, which is possible if the text is not changed before encoding.

    This holds for the models trained here. Others read it as a space, as SentencePiece itself does.
    """
    spec = proto.normalizer_spec
    normalizes = spec.precompiled_charsmap or spec.add_dummy_prefix or spec.remove_extra_whitespaces
    return bool(proto.trainer_spec.byte_fallback and not normalizes)


def to_tokenizer_json(proto: Any) -> str:
    """Text of a `tokenizer.json` that encodes plain text to the same ids as SentencePiece does with `proto`.

    In this file U+2581 in a text is always read as a space. `tokenizers` encodes as bytes only what is not a piece, and
    many tools expect U+2581 for the space in pieces, so no other character can take its role.

    Warns:
        UserWarning: the model holds something that `tokenizers` cannot express, so ids may differ for some texts.
    """
    is_unigram = proto.trainer_spec.model_type == UNIGRAM
    tokenizer = Tokenizer(_unigram(proto) if is_unigram else _bpe(proto))
    steps = _normalizers(proto.normalizer_spec)
    tokenizer.normalizer = normalizers.Sequence(steps) if len(steps) > 1 else steps[0]
    if is_unigram:
        tokenizer.pre_tokenizer = _unreachable(proto)
    strip = [decoders.Strip(" ", 1, 0)] if proto.normalizer_spec.add_dummy_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    special = [p.piece for p in proto.pieces if p.type in (UNKNOWN, CONTROL)]
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in special])
    user_defined = [p.piece for p in proto.pieces if p.type == USER_DEFINED and not is_unigram]
    tokenizer.add_tokens([AddedToken(piece, special=False, normalized=True) for piece in user_defined])
    doubts = _doubts(proto)
    if doubts:
        warnings.warn(
            f"tokenizer.json may split some texts otherwise than tokenizer.model: {'; '.join(doubts)}", stacklevel=2
        )
    return with_plain_merges(tokenizer.to_str())


def with_plain_merges(text: str) -> str:
    """A `tokenizer.json` with its merges as strings, "a b", which every version of `tokenizers` reads.

    Versions before 0.20, and so transformers before 4.45, do not read the pairs that newer ones write. If a part of any
    merge holds a space, only pairs can tell the two parts apart, so the pairs stay.
    """
    content = json.loads(text)
    merges = content["model"].get("merges", [])
    if not all(isinstance(pair, list) and not any(" " in part for part in pair) for pair in merges):
        return text
    if merges:
        content["model"]["merges"] = [" ".join(pair) for pair in merges]
    return json.dumps(content, ensure_ascii=False, indent=2)


def _bpe(proto: Any) -> models.BPE:
    """The BPE of a model; a character model is one without merges."""
    vocabulary = {p.piece: i for i, p in enumerate(proto.pieces)}
    scores = _mergeable(proto) if proto.trainer_spec.model_type == BPE else {}
    ranked = []
    for piece, score in scores.items():
        parts = _last_two_parts(piece, scores)
        if len(parts) == 2 and all(part in vocabulary for part in parts):
            # Among equal scores the longer piece comes first, as if the leftmost pair were joined first and then grew:
            # Llama 2 has its runs of spaces like this.
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
    """Scores of the pieces that merges can build. User-defined pieces are cut out of the text before."""
    return {p.piece: p.score for p in proto.pieces if p.type in (NORMAL, UNUSED)}


def _last_two_parts(piece: str, scores: dict[str, float]) -> list[str]:
    """The two parts of `piece` before its last merge; another number of parts if merges never build it."""
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
    """A pre-tokenizer that cuts what looks like a control or byte piece in two, after its longest prefix in the pieces.

    `tokenizers` would match such pieces in the text like any other; SentencePiece does not.
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
    """Reasons why ids may differ between the two libraries; empty if there are none."""
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
    if proto.trainer_spec.model_type == CHAR:
        return doubts
    scores = _mergeable(proto)
    if any(character not in scores for piece in scores for character in piece):
        doubts.append("it has pieces with characters that are not pieces themselves")
    # tokenizers has no equal ranks: the order of equal scores is right only for runs of a single character.
    equals: defaultdict[float, list[str]] = defaultdict(list)
    for piece, score in scores.items():
        if len(piece) > 1:
            equals[score].append(piece)
    n_equal = sum(len(group) for group in equals.values() if len(group) > 1 and len(set("".join(group))) > 1)
    if n_equal:
        doubts.append(f"{n_equal} of its pieces share their score with others")
    return doubts
