"""The table of blocks that a model YAML may name, and what a row of each means.

The host's model parser asks for one row at a time: which channels come out, which arguments the block is built with.
The package's own blocks and a user's are entries of the same table.

table.py           blocks by name and by class
channel_rules.py   how many channels come out
discovery.py       blocks that are registered when they are first named
environment.py     a user's blocks in other processes, by an environment variable
row_builder.py     what the patched parser asks for
messages.py        what a user is told of a row that cannot be built
"""

from ..blocks import BiFPN_Add, BiFPN_Concat, CoordAtt, SeparableConv
from .channel_rules import RULES, ChannelRule
from .table import BlockTable

TABLE = BlockTable()
TABLE.add(CoordAtt, "same")
TABLE.add(BiFPN_Concat, "sum")
TABLE.add(BiFPN_Add, "same")
TABLE.add(SeparableConv, "same")

__all__ = ["RULES", "TABLE", "BlockTable", "ChannelRule"]
