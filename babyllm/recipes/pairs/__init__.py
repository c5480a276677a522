"""Minimal pairs of Chinese characters, idioms and grammar, made from word lists: no published set is copied.

packages -> sources -> hanzi, idioms -+-> crossed pairs -> pair_files -> OUT/<paradigm>.jsonl, baselines
own lists of words  -> grammar -------+
"""
