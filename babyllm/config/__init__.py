"""Settings: dataclasses, one YAML file and `--section.key=value`, and limits for their values."""

from babyllm.config.command_line import differences, dump, load, nearest, parse, to_dict

__all__ = ["differences", "dump", "load", "nearest", "parse", "to_dict"]
