"""Pretrain a language model: `python train_pretrain.py [--section.key=value ...]`, the same as `babyllm pretrain`."""

from babyllm.commands.training.pretrain import main
from babyllm.runtime import user_errors

if __name__ == "__main__":
    with user_errors():
        main(prog="train_pretrain.py")
