"""Teach a model to converse: `python train_sft.py [--section.key=value ...]`, the same as `babyllm sft`."""

from babyllm.commands.training.sft import main
from babyllm.runtime import user_errors

if __name__ == "__main__":
    with user_errors():
        main(prog="train_sft.py")
