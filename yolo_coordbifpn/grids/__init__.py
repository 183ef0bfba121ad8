"""The threshold of a grid activation, what it keeps and skips on a validation set, and big pictures tile by tile.

curve.py       recall and skipped share over thresholds, and the threshold to take
measure.py     the scores of pictures, and the threshold of a checkpoint
validate.py    the scores of pictures during the host's validation
report.py      table, CSV and picture
tiles.py       big pictures, through SAHI
"""
