"""The threshold of a grid activation: what it keeps and skips on a validation set.

curve.py       recall and skipped share over thresholds, and the threshold to take
measure.py     the scores of pictures, and the threshold of a checkpoint
report.py      table, CSV and picture
"""
