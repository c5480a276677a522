"""Fault drills: files are damaged, processes killed and stopped, disks filled up, and what must hold is looked at.

    python -m tests.campaign [--seed S] [--faults N] [--minutes M] [--only KIND] [--out FILE]

faults -> drill: fault, and the same command again -> outcome: held, detected, harmless, skipped or failed -> table
"""
