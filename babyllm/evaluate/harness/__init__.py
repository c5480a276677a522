"""Models of this project as models of lm-evaluation-harness, on its own tasks and command line.

    python -m babyllm.evaluate.harness run --model babyllm --model_args pretrained=RUN_DIR --tasks lambada

`adapter` has the model, `grouped` makes questions of its requests.
"""
