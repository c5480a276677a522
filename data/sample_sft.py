"""The sample conversations, which `train_sft.py` makes by itself; see `babyllm.recipes.sample_sft`."""

from babyllm.recipes.sample_sft import conversations, prepare_sft_sample

__all__ = ["conversations", "prepare_sft_sample"]
