"""The sample set for text-to-SQL: `python data/text_to_sql.py OUT`; see `babyllm.recipes.text_to_sql.making`."""

from babyllm.recipes.text_to_sql.making import main, make, prompt

__all__ = ["main", "make", "prompt"]

if __name__ == "__main__":
    raise SystemExit(main())
