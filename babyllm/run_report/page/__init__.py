"""The files that a run's report is made of: a Jinja template, a style sheet and a script."""
