"""The table of blocks that a model YAML may name, and what a row of each means.

The host's model parser asks for one row at a time: how many channels the block outputs, and which arguments it is built
with. The package's own blocks and a user's are entries of the same table.

table.py           blocks by name, by class, and by their word in model names
channel_rules.py   how many channels a block outputs
discovery.py       blocks that are registered when they are first named
shipped.py         where they are found: this package, and timm
environment.py     modules that an environment variable names, for a user's blocks in other processes
entry_points.py    installed packages
row_builder.py     what the patched parser calls
probe.py           whether a block runs on feature maps of any size
messages.py        error messages for rows that cannot be built
"""

from ..blocks.declaration import ChannelRule, declaration, variant_of
from .channel_rules import RULES
from .shipped import declared
from .table import BlockTable

TABLE = BlockTable()
LATE = [cls for cls in declared() if declaration(cls).library]  # registered when they are first named
for _cls in declared():
    if _cls not in LATE:
        TABLE.add(_cls)
for _cls in LATE:
    TABLE.variants[variant_of(_cls)] = _cls

__all__ = ["LATE", "RULES", "TABLE", "BlockTable", "ChannelRule"]
