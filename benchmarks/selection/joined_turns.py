"""What a classifier of turns reaches on conversations that its pairs held out, beside the overlap of characters.

    python -m benchmarks.selection.joined_turns CONVERSATIONS [CLASSIFIER] [--held_out 0.25]

CONVERSATIONS is the file that `babyllm turns --pairs` read, with the same share held out. It prints the accuracy on the
held-out pairs with its standard error, that of the difference, and the precision at a recall of 0.9; the same of a
logistic regression on the digits alone that a classifier reads, without a CLASSIFIER only that. Then joined
conversations are planted among the real ones of two exchanges or more: for each real one, one of as many exchanges
(at most ten), each the first exchange of another held-out conversation in the same language. The table has the
precision and recall with which they are found, by `choice.threshold`.
"""

import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from babyllm.selection.turns.overlap_baseline import best_overlap, predicted
from babyllm.selection.turns.rarity import Rarity
from babyllm.selection.turns.select_turns import read_sides, texts_of
from babyllm.selection.turns.turn_config import PairConfig
from babyllm.selection.turns.turn_pairs import MAX_TURNS, TurnPair, turn_pairs
from babyllm.selection.turns.turn_scorers import Turn, TurnScorer, classifier_scorer
from babyllm.selection.turns.turn_texts import FOLLOWS, Exchange, is_chinese, pair_texts
from benchmarks import figures

THRESHOLDS = (0.3, 0.4, 0.5, 0.6)
RECALL = 0.9
PER_TURN = 2  # of the pairs to train on, as in docs/en/data/turns.md


def planted(real: Sequence[Sequence[Exchange]], pool: Sequence[Exchange], seed: int) -> list[list[Exchange]]:
    """For each conversation, one as long, of first exchanges of others in the language of its first question."""
    rng = random.Random(seed)
    found = []
    for said in real:
        language = is_chinese(said[0].question)
        others = [one for one in pool if one != said[0] and is_chinese(one.question) == language]
        found.append(rng.sample(others, min(len(said), MAX_TURNS, len(others))))
    return [said for said in found if len(said) > 1]


def mean_scores(conversations: Sequence[Sequence[Exchange]], scorer: TurnScorer) -> NDArray[np.float64]:
    """The mean probability of the turns of each conversation to follow."""
    turns: list[Turn] = [(said[:k], said[k].question) for said in conversations for k in range(1, len(said))]
    scores = iter(scorer(turns))
    return np.array([np.mean([next(scores) for _ in said[1:]]) for said in conversations])


def precision_at_recall(scores: NDArray[np.float64], wanted: NDArray[np.bool_], recall: float) -> float:
    """The precision of the highest limit at which the share `recall` of the wanted ones is found."""
    limit = np.sort(scores[wanted])[::-1][math.ceil(recall * wanted.sum()) - 1]
    found = scores >= limit
    return float((found & wanted).sum() / found.sum())


def digits(pairs: Sequence[TurnPair], rarity: Rarity) -> NDArray[np.float64]:
    """The digits at the beginning of what a classifier reads of each pair, one-hot, and a constant."""
    found = [pair_texts(pair.before, pair.turn, rarity)[0].split(" ")[:3] for pair in pairs]
    levels = np.array([[int(digit) for digit in "".join(groups)] for groups in found])
    one_hot = np.eye(10)[levels].reshape(len(pairs), -1)
    return np.hstack([one_hot, np.ones((len(pairs), 1))])


def regression(train: NDArray[np.float64], follows: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The weights of a logistic regression, by Newton's method, with an L2 penalty of 1."""
    weights = np.zeros(train.shape[1])
    for _ in range(20):
        chance = 1 / (1 + np.exp(-train @ weights))
        slope = train.T @ (chance - follows) + weights
        curvature = (train.T * (chance * (1 - chance))) @ train + np.eye(len(weights))
        weights -= np.linalg.solve(curvature, slope)
    return weights


def show(name: str, scores: NDArray[np.float64], follows: NDArray[np.bool_], rule_right: NDArray[np.bool_]) -> float:
    """Print what scores, probabilities to follow, reach on held-out pairs; returns their accuracy."""
    right = (scores >= 0.5) == follows
    gain, error = right.astype(float) - rule_right, math.sqrt(len(right))
    print(f"  {name}: {right.mean():.4f}, standard error {right.std() / error:.4f}")
    print(f"    more than the overlap: {gain.mean():+.4f}, standard error {gain.std() / error:.4f}")
    at_recall = [precision_at_recall(scores, follows, RECALL), precision_at_recall(-scores, ~follows, RECALL)]
    print(f"    precision at recall {RECALL}: {at_recall[0]:.3f} of turns that follow, {at_recall[1]:.3f} of others")
    return float(right.mean())


def show_planted(held_out: Sequence[Sequence[Exchange]], scorer: TurnScorer) -> None:
    """Print how well joined conversations are found among real ones."""
    real = [said for said in held_out if len(said) > 1]
    joined = planted(real, [said[0] for said in held_out], 1)
    of_real, of_joined = mean_scores(real, scorer), mean_scores(joined, scorer)
    print(f"{len(real)} real conversations, {len(joined)} joined ones\n  threshold  precision  recall")
    for threshold in THRESHOLDS:
        n_right, n_wrong = int((of_joined < threshold).sum()), int((of_real < threshold).sum())
        print(f"  {threshold:9}  {n_right / max(1, n_right + n_wrong):9.2f}  {n_right / len(joined):6.2f}")
    lengths = np.array([len(said) for said in real])
    for name, chosen in (("two", lengths == 2), ("five or more", lengths >= 5)):
        print(f"  of real ones with {name} exchanges, {(of_real[chosen] < 0.5).mean():.0%} are called joined at 0.5")


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("conversations", type=Path, help="the file with conversations")
    parser.add_argument("classifier", type=Path, nargs="?", help="run of the classifier")
    parser.add_argument("--held_out", type=float, default=PairConfig.held_out, help="share held out (default 0.25)")
    args = figures.parse(parser)
    train, held_out = read_sides([args.conversations], args.held_out)
    known, pairs = list(turn_pairs(train, PairConfig.seed, PER_TURN)), list(turn_pairs(held_out, PairConfig.seed + 1))
    rule = best_overlap(known, pairs)
    follows, of_known = (np.array([pair.label == FOLLOWS for pair in some]) for some in (pairs, known))
    rule_right = predicted(rule, pairs) == follows
    print(f"{len(known):,} pairs to train on, {len(pairs):,} held out\n  {rule}: {rule_right.mean():.4f}")
    rarity = Rarity(texts_of(held_out))
    weights = regression(digits(known, Rarity(texts_of(train))), of_known)
    of_digits = 1 / (1 + np.exp(-digits(pairs, rarity) @ weights))
    found = [
        figures.Figure("turns, overlap", float(rule_right.mean()), "share"),
        figures.Figure("turns, digits", show("regression on digits", of_digits, follows, rule_right), "share"),
    ]

    def by_digits(turns: Sequence[Turn]) -> list[float | None]:
        made = digits([TurnPair(before, turn, FOLLOWS) for before, turn in turns], rarity)
        return list(1 / (1 + np.exp(-made @ weights)))

    show_planted(held_out, by_digits)
    if args.classifier:
        scorer = classifier_scorer(args.classifier, rarity)
        scores = np.array(scorer([(pair.before, pair.turn) for pair in pairs]), dtype=np.float64)
        found.append(figures.Figure("turns, classifier", show("classifier", scores, follows, rule_right), "share"))
        show_planted(held_out, scorer)
    figures.write(args, found)


if __name__ == "__main__":
    main()
