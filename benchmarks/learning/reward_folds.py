"""Accuracy of a reward model on held-out pairs, by cross-validation, beside a rule that prefers the longer answer.

    python -m benchmarks.learning.reward_folds --model MODEL --pairs dpo_zh_demo.json dpo_en_demo.json

pairs -> both sides, cut -> hidden states of the frozen layers, computed once
      -> for each fold: last layers, norm and head trained on the others, scores of the fold's sides -> accuracy
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    """Read the options, then train and score each fold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pairs", nargs="+", type=Path, required=True)
    parser.add_argument("--prompt_tokens", type=int, default=96)
    parser.add_argument("--answer_tokens", type=int, default=150)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    from benchmarks.learning.fold_training import measure  # the help needs no heavy library

    measure(options)


if __name__ == "__main__":
    main()
