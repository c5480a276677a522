"""How well the machines of a run work: their cards and variables, advice on links that fail, the pace of ranks."""
