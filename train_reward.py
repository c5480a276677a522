"""Train a reward model: `python train_reward.py [--section.key=value ...]`, the same as `babyllm reward`."""

from babyllm.commands.training.reward import main
from babyllm.runtime import user_errors

if __name__ == "__main__":
    with user_errors():
        main(prog="train_reward.py")
