"""The command line of lm-evaluation-harness, which knows the model `babyllm` here.

python -m babyllm.evaluate.harness run --model babyllm --model_args pretrained=RUN_DIR,dtype=float32 --tasks lambada
"""

from __future__ import annotations

from importlib import import_module

from babyllm.runtime import user_errors


def main() -> None:
    """Run the command line; a user's mistake becomes one line on stderr and exit status 1."""
    with user_errors():
        import_module("babyllm.evaluate.harness.adapter")  # registers the model, or says what is missing
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()


if __name__ == "__main__":
    main()
