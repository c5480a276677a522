"""Train a classifier: `python train_classifier.py [--section.key=value ...]`, the same as `babyllm classifier`."""

from babyllm.commands.training.classifier import main
from babyllm.runtime import user_errors

if __name__ == "__main__":
    with user_errors():
        main(prog="train_classifier.py")
