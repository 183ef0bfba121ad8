"""The number of pretrained items of a model, and whether the models start from comparable weights."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

_TRANSFERRED = re.compile(r"Transferred (\d+)/(\d+) items|yolo_coordbifpn: (\d+) of (\d+) pretrained items kept")
_LIKE = 0.2  # largest difference between the shares of pretrained items of comparable starts


class TransferCount(logging.Filter):
    """Reads from the host's log how many pretrained items were transferred; this package's line takes precedence.

    It is a filter because a filter also sees messages that a later filter drops.

    Attributes:
        items: The last count, such as `448/499`, or an empty string if there was none.
    """

    def __init__(self) -> None:
        """Start without a count."""
        super().__init__()
        self.items = ""
        self.ours = False

    def __enter__(self) -> TransferCount:
        from ultralytics.utils import LOGGER

        LOGGER.addFilter(self)
        return self

    def __exit__(self, *_: object) -> None:
        from ultralytics.utils import LOGGER

        LOGGER.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Record the count if the message has one; let every message pass."""
        match = _TRANSFERRED.search(record.getMessage())
        if match and (match[3] or not self.ours):
            self.ours = bool(match[3])
            self.items = "/".join(x for x in match.groups() if x)
        return True


def unequal_starts(models: Mapping[str, str], items: Mapping[str, str], pretrained: object) -> list[str]:
    """Say why a difference between models may come from unequal starts.

    Args:
        models: Names or paths of the models by label.
        items: Pretrained items by label, such as `448/499`, where they are known.
        pretrained: Value of `pretrained=`; a model that is this checkpoint starts like those that load it.

    Returns:
        A sentence for each reason.
    """
    checkpoints = [x for x, model in models.items() if model.endswith(".pt") and model != pretrained]
    others = [x for x in models if x not in checkpoints]
    found = []
    if checkpoints and others and pretrained is not False:
        found.append(
            f"UNEQUAL STARTS: {', '.join(checkpoints)} from a checkpoint, {', '.join(others)} not. A difference may "
            "come from the earlier training of the checkpoint."
        )
    shares = {x: _share(count) for x, count in items.items()}
    most = max(shares, key=shares.__getitem__, default="")
    fewer = [f"{items[x] or 'none'} in {x}" for x in shares if shares[most] - shares[x] > _LIKE]
    if fewer:
        found.append(
            f"UNEQUAL STARTS: the pretrained items are {items[most]} in {most}, but {', '.join(fewer)}. A difference "
            "may come from the pretrained weights."
        )
    return found


def _share(items: str) -> float:
    kept, _, total = items.partition("/")
    return int(kept) / int(total) if total else 0.0
