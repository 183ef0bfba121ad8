"""Plots of a model and of what its blocks learned; matplotlib is imported when something is drawn.

inspect.py         the public functions
sources.py         models and images by the names that a user gives
capture.py         gates and maps captured during the host's own prediction
gates.py           the gates of CoordAtt and the maps of SpatialGate as arrays
gate_plot.py       gates and maps over an image, for one model or two
findings.py        what was found, in sentences and in a table of shares
page.py            all plots of an inspection as files and on one HTML page
effects.py         what the attention blocks do to an image
epoch_log.py       the files that a training writes by epoch
fusion_plot.py     the fusion weights by epoch
attention_plot.py  the effects of attention by epoch
diagram.py         the layers of a model as cells by level and path
graph_layout.py    where each cell and arrow of a diagram is drawn
graph_plot.py      a diagram as SVG, PNG or PDF, with the blocks marked and the weights of the fusions
labels.py          positions of labels that do not overlap
palette.py         colours, lines and markers, distinct in grey too
"""
