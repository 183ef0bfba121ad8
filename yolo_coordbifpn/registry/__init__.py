"""The table of blocks that a model YAML may name, and what a row of each means.

The host's model parser asks for one row at a time: how many channels the block outputs, and which arguments it is built
with. The package's own blocks and a user's are entries of the same table.

table.py           blocks by name and by class
channel_rules.py   how many channels a block outputs
discovery.py       blocks that are registered when they are first named
environment.py     a user's blocks in other processes, through an environment variable
row_builder.py     what the patched parser calls
messages.py        error messages for rows that cannot be built
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
