"""Evaluation on tasks: questions with options, minimal pairs and generated answers, all from local files.

    task.yaml + records -> Item -> prompts -> ids -> nats of each option, or a generated answer -> metrics -> estimates

`task` reads task files, `items` the records, `prompts` writes what the model reads, `option_nats` reads it,
`responses` shares the work among ranks and stores it, `item_scores` and `task_report` turn responses into numbers.
"""
