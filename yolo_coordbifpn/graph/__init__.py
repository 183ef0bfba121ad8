"""A model as a graph of layers: aligning two of them, carrying weights over, putting blocks in. Knows no host."""
