"""Pictures of a model and of what its blocks have learned. Knows no host; matplotlib is loaded when something is drawn.

palette.py      colours and markers that tell the paths apart, in grey too
fusion_plot.py  the fusion weights by epoch
diagram.py      the layers of a model as cells by level and path: what goes where
graph_plot.py   a diagram as a picture, with blocks marked and weights at the arrows
gates.py        the gates of CoordAtt, as arrays and over a picture
page.py         all pictures of an inspection on one HTML page
"""
