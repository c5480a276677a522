"""Processes: how many a script starts, what each of them is told, and what is said when one of them ends."""
