"""Processes of a run: how many a script starts, what each is given, and what is reported when one ends."""
