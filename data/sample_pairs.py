"""The sample pairs and prompts for alignment: `python data/sample_pairs.py`; see `babyllm.recipes.sample_pairs`."""

from babyllm.recipes.sample_pairs import DIRECTORY, pairs, prepare_pair_sample, prompts

__all__ = ["pairs", "prepare_pair_sample", "prompts"]

if __name__ == "__main__":
    prepare_pair_sample(DIRECTORY)
