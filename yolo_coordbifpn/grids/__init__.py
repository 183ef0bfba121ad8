"""The threshold of a grid activation, what it keeps and skips on a validation set, and large images tile by tile.

curve.py       recall and skipped share over thresholds, and the threshold to take
measure.py     the scores of images, and the threshold of a checkpoint
validate.py    the scores of images during the host's validation
report.py      table, CSV and plot
tiles.py       large images, through SAHI
"""
