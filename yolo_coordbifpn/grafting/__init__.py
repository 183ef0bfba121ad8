"""Blocks put into model YAMLs and into trained checkpoints.

variant.py     what can be put into a model, as options and as a name
names.py       names of model YAMLs: shipped, the host's, and those of a stock model with a variant behind it
row_graph.py   the rows of a model YAML as a graph
attention.py   where attention goes
necks.py       the weighted, the top-down and the summing neck
graft.py       a model YAML with blocks put into it, built and checked
yaml_text.py   the text of a model YAML with its rows replaced
upgrade.py     a trained checkpoint with blocks put into it
"""
