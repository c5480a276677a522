"""The sample corpus as JSON lines: `python data/sample.py sample.jsonl`; see `babyllm.recipes.sample`."""

from babyllm.recipes.sample import documents, main, prepare_sample, reviews, write_jsonl

__all__ = ["documents", "main", "prepare_sample", "reviews", "write_jsonl"]

if __name__ == "__main__":
    raise SystemExit(main())
