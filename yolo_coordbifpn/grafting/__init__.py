"""Variants of models: blocks put into model YAMLs and into trained checkpoints.

variant.py     what a variant puts into a model, as options and as a name
names.py       names of model YAMLs: shipped, the host's, and a stock name followed by a variant
row_graph.py   the rows of a model YAML as a graph
attention.py   places of attention
necks.py       the weighted, the top-down and the summing neck
levels.py      detection levels added to the neck or taken from the head
dual_path.py   the detail path and the spatial gates
density.py     the density head of adaptive NMS
grid.py        the grid activation after a stage of the backbone
graft.py       a variant of a model YAML, built and checked
yaml_text.py   the text of a model YAML with changed rows
upgrade.py     a variant of a trained checkpoint
"""
