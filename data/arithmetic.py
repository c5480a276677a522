"""Arithmetic problems for fine-tuning and rewards: `python data/arithmetic.py`; see `babyllm.recipes.arithmetic`."""

from babyllm.recipes.arithmetic import conversations, prepare_arithmetic, problems

__all__ = ["conversations", "prepare_arithmetic", "problems"]

if __name__ == "__main__":
    prepare_arithmetic()
