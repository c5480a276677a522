"""Prefer the better answers: `python train_dpo.py [--section.key=value ...]`, the same as `babyllm dpo`."""

from babyllm.commands.training.dpo import main
from babyllm.runtime import user_errors

if __name__ == "__main__":
    with user_errors():
        main(prog="train_dpo.py")
