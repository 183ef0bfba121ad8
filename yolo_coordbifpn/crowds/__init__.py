"""NMS in crowds: fixed, soft and adaptive thresholds, measured on the same predictions.

sweep.py    one pass over a validation set, with each NMS after every batch
scores.py   mAP, recall of crowded objects and false positives of one NMS
report.py   table, CSV and plot
"""
