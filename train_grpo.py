"""Train a model on its own answers: `python train_grpo.py [--section.key=value ...]`, the same as `babyllm grpo`."""

from babyllm.commands.training.grpo import main
from babyllm.runtime import user_errors

if __name__ == "__main__":
    with user_errors():
        main(prog="train_grpo.py")
