"""Checkpoints: step directories that are Hugging Face directories, complete or absent.

state -> snapshot -> .saving/ -> renamed to step_N, while training goes on        (`Saver`)
run directory -> newest complete step -> checksums -> state                        (`load`)
"""

from babyllm.training.checkpoint.restore import load, resume
from babyllm.training.checkpoint.saver import Saver, save

__all__ = ["Saver", "load", "resume", "save"]
