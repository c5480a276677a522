"""Minimal pairs of Chinese: `python data/minimal_pairs.py data/eval/zh_pairs`; see `babyllm.recipes.pairs`."""

from babyllm.recipes.pairs.pair_files import main

if __name__ == "__main__":
    raise SystemExit(main())
