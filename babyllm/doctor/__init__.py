"""Tests of each device and link of the machines of a run: which card is broken, which is slowest.

device, links, disk of a rank -> Findings -> gathered from all ranks -> `diagnosis` -> tables and one line
"""
