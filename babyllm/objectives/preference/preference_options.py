"""How a model learns from preferences, as a section of a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from babyllm.config.values import Limits, Positive, Rate
from babyllm.errors import UserError

UnpairedName = Literal["kto", "apo_zero_unpaired"]
PreferenceName = Literal["sigmoid", "ipo", "ipo_sum", "hinge", "robust", "orpo", "simpo", UnpairedName]


@dataclass(frozen=True)
class PreferenceOptions:
    """How the log-probabilities of answers become a loss.

    Attributes:
        name: loss by name. sigmoid is DPO (Rafailov et al. 2023); ipo and ipo_sum are Azar et al. 2024 with the mean or
            the sum over an answer's tokens; hinge is Zhao et al. 2023; robust is Chowdhury et al. 2024; orpo is Hong
            et al. 2024; simpo is Meng et al. 2024. Two are for single answers with verdicts: kto (Ethayarajh et al.
            2024), whose reference point is estimated over the batch, and apo_zero_unpaired (D'Oosterlinck et al. 2024),
            whose reference point is 0.
        beta: weight of the log-probabilities: a higher one keeps the model nearer to the reference.
        label_smoothing: share of pairs whose labels are taken to be wrong, below 0.5; of sigmoid and robust.
        length_normalised: whether log-probabilities are divided by the number of tokens of the answer.
        sft_weight: weight of the mean nats of a token of each chosen answer, which is added to the loss.
        gamma: difference of rewards that simpo asks for.
        desirable_weight: weight of good answers in kto and apo_zero_unpaired.
        undesirable_weight: weight of bad answers in kto and apo_zero_unpaired.
    """

    name: PreferenceName = "sigmoid"
    beta: Positive = 0.1
    label_smoothing: Annotated[float, Limits(0.0, 0.499)] = 0.0
    length_normalised: bool = False
    sft_weight: Rate = 0.0
    gamma: Rate = 1.0
    desirable_weight: Rate = 1.0
    undesirable_weight: Rate = 1.0

    @property
    def needs_reference(self) -> bool:
        """Whether the loss compares with a reference model."""
        return self.name not in ("orpo", "simpo")

    @property
    def is_unpaired(self) -> bool:
        """Whether the loss reads single answers with verdicts."""
        return self.name in get_args(UnpairedName)

    @property
    def has_reference_point(self) -> bool:
        """Whether the loss compares with a reference point, which answers to other prompts estimate."""
        return self.name == "kto"

    def check(self, prefix: str = "loss.") -> None:
        """Refuse settings that have no effect.

        Args:
            prefix: text before the names of the fields in a message.

        Raises:
            UserError: a setting belongs to another loss.
        """
        if self.label_smoothing and self.name not in ("sigmoid", "robust"):
            raise UserError(f"--{prefix}label_smoothing has no effect on {self.name}; it is for sigmoid and robust")
        if self.length_normalised and self.name in ("ipo", "ipo_sum", "orpo", "simpo"):
            raise UserError(f"--{prefix}length_normalised has no effect on {self.name}; leave it out")
        if self.sft_weight and (self.is_unpaired or self.name == "orpo"):
            raise UserError(f"--{prefix}sft_weight cannot be added to {self.name}; leave it at 0")
