"""Answers of a model to the records of a file, written to a file in the records' order.

    source -> find_records -> Record | Rejected -> Asking -> Question -> Answering -> a line
           -> windows of records, shared among ranks -> lines of a window -> OrderedOutput -> the file, once complete

A window is answered as a whole and by itself, so its lines do not depend on the windows before it, on the number of
ranks, or on where an earlier process was killed.
"""

from babyllm.prediction.answering import Answering
from babyllm.prediction.predict_file import Work, predict_file
from babyllm.prediction.questions import Asking, Question
from babyllm.prediction.sample_file import Rewarding, Sampled, sample_file
from babyllm.prediction.sample_rules import Choosing, Rule, tally

__all__ = [
    "Answering",
    "Asking",
    "Choosing",
    "Question",
    "Rewarding",
    "Rule",
    "Sampled",
    "Work",
    "predict_file",
    "sample_file",
    "tally",
]
