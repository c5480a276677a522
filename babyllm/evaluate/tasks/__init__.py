"""Evaluation on tasks: questions with options, minimal pairs and generated answers, all from local files.

    task.yaml + records -> Item -> prompts -> ids -> nats of each option, or a generated answer -> metrics -> estimates

`task` reads task files, `items` the records, `prompts` writes what the model reads, `options` and `generated` run it,
`responses` shares the work among ranks and stores it, `metrics` and `results` turn responses into numbers.
"""
