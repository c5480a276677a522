"""Settings of labels: who labels records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from babyllm.config.values import PathText, expand_paths
from babyllm.endpoint.config import EndpointConfig
from babyllm.endpoint.named_endpoints import named_endpoints


@dataclass(frozen=True)
class LabellerConfig:
    """Who labels records; rules do where nobody else does.

    Attributes:
        language: language of the judge's prompt.
        structured: whether the judge is sent the JSON schema of the labels, for servers that hold answers to it.
        classifiers: run of `babyllm classifier` by the label that it predicts, such as {task: runs/tasks}.
        endpoints: YAML file of several endpoints by name, each with the settings of `endpoint`; null takes that one.
        endpoint: model that judges; without its url, and without endpoints, rules alone give labels.
    """

    language: Literal["en", "zh"] = "en"
    structured: bool = False
    classifiers: dict[str, str] = field(default_factory=dict)
    endpoints: PathText | None = None
    endpoint: EndpointConfig = field(default_factory=lambda: EndpointConfig(temperature=0.0, max_tokens=512))

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        expand_paths(self)

    def judges(self) -> dict[str, EndpointConfig]:
        """The endpoints that judge, by name; empty for none.

        Raises:
            UserError: the file of several endpoints is at fault, or a flag is.
        """
        return named_endpoints(self.endpoint, self.endpoints) if self.endpoint.url or self.endpoints else {}
