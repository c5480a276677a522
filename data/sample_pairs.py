"""The sample pairs and prompts for alignment: `python data/sample_pairs.py`; see `babyllm.recipes.sample_pairs`."""

from babyllm.recipes.sample_pairs import DIRECTORY, pairs, prepare_pairs_sample, prompts

__all__ = ["pairs", "prepare_pairs_sample", "prompts"]

if __name__ == "__main__":
    prepare_pairs_sample(DIRECTORY)
