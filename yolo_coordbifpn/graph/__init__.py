"""Built models as graphs of layers: alignment, transfer of weights, folding, paths. Imports no host.

layers.py             a built model as a list of layers: what each reads, its shapes, running them
rows.py               rows of a model YAML: checks and names
bottleneck.py         attention inside a stock block
paths.py              level, part and path of each layer
align.py              an alignment of two models' layers
pairs.py              the aligned layers, and the blocks that are new
label_propagation.py  labels on the channels of tensors, through a forward pass
channels.py           which convolutions read the new channels of an added edge
head_levels.py        the levels of two heads, paired by stride
donor.py              the model to load from
transfer.py           what became of the weights: one line and a measured difference
transplant.py         the steps from a pretrained model to a transfer, and the checks
removal.py            the way back: weights of a model with blocks for the model without
starts.py             how blocks start, carried from one model to another: gains, and blocks inside a ReZero
fold.py               fusion weights folded into convolutions for inference
"""
