"""The sample texts with labels for classifiers: `python data/sample_labels.py`; see `babyllm.recipes.sample_labels`."""

from babyllm.recipes.sample_labels import DIRECTORY, labelled, prepare_labels_sample

__all__ = ["labelled", "prepare_labels_sample"]

if __name__ == "__main__":
    prepare_labels_sample(DIRECTORY)
