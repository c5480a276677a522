"""Train a model on its own answers: `python train_ppo.py [--section.key=value ...]`, the same as `babyllm ppo`."""

from babyllm.commands.training.ppo import main
from babyllm.runtime import user_errors

if __name__ == "__main__":
    with user_errors():
        main(prog="train_ppo.py")
