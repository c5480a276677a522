"""Judging answers: by a model at an endpoint, in pairs or by scores, and by people on a blind sheet.

answer_files -> Pair, Answer -> judge_prompts -> requests -> endpoint -> verdicts -> pairs, dimension_scores -> report
                  |                                                                      |
                  +-> sheet -> people -> choices.json -> agreement <---------------------+
"""
