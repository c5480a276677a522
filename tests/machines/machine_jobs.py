"""Jobs of ranks whose device or link is planted to be broken or slow."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn
from training_fixtures import CPU, tiny_config, tiny_state

from babyllm.__main__ import run as run_command
from babyllm.data.batch import Batch
from babyllm.doctor import exchanges, products
from babyllm.objectives import LossTerms
from babyllm.objectives.lm import language_model
from babyllm.runtime import start, user_errors
from babyllm.training.loop import train
from babyllm.training.run import open_run


def examined(arguments: list[str], wrong: int = -1, slow: tuple[int, int] = (-1, -1)) -> None:
    """`babyllm doctor`, where a rank multiplies wrongly now and then, or messages of two ranks are slow.

    Args:
        arguments: arguments of the command.
        wrong: rank whose every third product has one wrong number.
        slow: ranks whose messages to each other take long.
    """
    rank = int(os.environ["RANK"])
    multiply, send, n = products.multiply, exchanges.send, iter(range(10**9))

    def wrong_now_and_then(one: Tensor, two: Tensor) -> Tensor:
        found = multiply(one, two)
        if next(n) % 3 == 2:
            found[3, 5] += 1
        return found

    def slowly(message: Tensor, peer: int) -> None:
        if {rank, peer} == set(slow):
            time.sleep(0.3)
        send(message, peer)

    if rank == wrong:
        products.multiply = wrong_now_and_then
    exchanges.send = slowly
    sys.argv = ["babyllm", "doctor", *arguments]
    with user_errors():
        run_command(["doctor", *arguments])


def unequal_steps(data: str, out: str, slow: int) -> None:
    """A run in which one rank takes longer for its forward passes, and the others wait for it."""
    with start(CPU) as runtime:
        config = replace(tiny_config(Path(data), steps=40), run_dir=out)

        def loss(model: nn.Module, batch: Batch) -> LossTerms:
            if runtime.rank == slow:
                time.sleep(0.05)
            return language_model(model, batch)

        state = tiny_state(config, runtime)
        with open_run(config, state, None, config.plan) as run:
            train(state, loss, config.plan, [run.logging(5, 16)])


JOBS = {"examined": examined, "unequal_steps": unequal_steps}
