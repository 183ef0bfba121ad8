"""Plots of a model and of what its blocks learned; matplotlib is loaded when something is drawn.

inspect.py      the public functions
sources.py      models and images by the names that a user gives
capture.py      gates captured during the host's own prediction
gates.py        the gates of CoordAtt, as arrays and drawn over an image
diagram.py      the layers of a model as cells by level and path
graph_layout.py where each cell and arrow of a diagram is drawn
graph_plot.py   a diagram as SVG, PNG or PDF, with the blocks marked and the weights at the arrows
fusion_plot.py  the fusion weights by epoch
page.py         all plots of an inspection as files and on one HTML page
palette.py      colours and markers of the paths, distinct in grey too
"""
