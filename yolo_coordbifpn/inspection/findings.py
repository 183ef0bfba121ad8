"""What an inspection found, in sentences and in one table of shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..graph.paths import Fusion
from .gates import TOLERANCE, Gates
from .inspect import Inspection
from .sources import distinct_names


@dataclass(frozen=True)
class Share:
    """The share of one input of a fusion, in the model and in the one that it is compared with.

    Attributes:
        node: Level, path and layer of the fusion.
        input: Name of the input.
        share: Its share, 0...1; None if the model has no such input.
        before: Its share in the other model; None without one, or if that has no such input.
    """

    node: str
    input: str
    share: float | None
    before: float | None

    @property
    def difference(self) -> float | None:
        """Return the share minus that in the other model; None unless both have it."""
        return None if self.share is None or self.before is None else self.share - self.before


def models(found: Inspection) -> dict[str, Inspection]:
    """Return the inspected models by names that tell them apart, the one that is compared with first."""
    other = found.against
    if other is None:
        return {Path(found.name).name: found}
    if Path(other.name).absolute() == Path(found.name).absolute():
        return {f"{found.name} (against)": other, found.name: found}
    both = [Path(other.name), Path(found.name)]
    labels = [name.removesuffix(x.suffix) + x.suffix for name, x in zip(distinct_names(both), both)]
    return dict(zip(labels, (other, found)))


def shares(found: Inspection) -> list[Share]:
    """Return the share of every input, matched by the name of the node and of the input in both models."""
    mine, other = _by_name(found), _by_name(found.against) if found.against else {}
    return [
        Share(
            str((mine if key in mine else other)[key][0]),
            key[2],
            *(x[key][1] if key in x else None for x in (mine, other)),
        )
        for key in dict.fromkeys([*mine, *other])
    ]


def _by_name(found: Inspection) -> dict[tuple[str, int, str], tuple[Fusion, float]]:
    """Return each fusion and share by node, number of the node among those of its name, and input."""
    seen: Counter[str] = Counter()
    rows: dict[tuple[str, int, str], tuple[Fusion, float]] = {}
    for node in found.fusions:
        seen[node.name] += 1
        rows |= {(node.name, seen[node.name], name): (node, share) for name, share in node.shares}
    return rows


def notes(found: Inspection) -> list[str]:
    """Return the sentences at the top of the page."""
    sentences = []
    named = models(found)
    for label, x in named.items():
        where = f"{label}: " if len(named) > 1 else ""
        counts = f"CoordAtt: {len(x.attention)}, weighted fusions: {len(x.fusions)}, images: {len(x.images)}."
        sentences += [where + y for y in (counts, *_missing(x), *_gate_notes(x), *_map_notes(x), *_fusion_notes(x))]
    if found.skipped:
        sentences.append(f"Skipped, because the file cannot be read as an image: {', '.join(map(str, found.skipped))}.")
    return sentences


def flat_blocks(found: Inspection) -> dict[str, list[Gates]]:
    """Return the CoordAtt blocks whose gates do not differ over any image, with their gates for each image."""
    blocks: dict[str, list[Gates]] = {}
    for image in found.images:
        for gates in image.gates:
            blocks.setdefault(gates.name, []).append(gates)
    return {name: gates for name, gates in blocks.items() if all(x.flat for x in gates)}


def _missing(found: Inspection) -> list[str]:
    sentences = []
    if not found.attention and not found.spatial_gates:
        sentences.append("The model has no CoordAtt, so there are no gates to show.")
    if not found.fusions:
        sentences.append("The model has no BiFPN_Concat and no BiFPN_Add, so there are no fusion weights to show.")
    return sentences


def _gate_notes(found: Inspection) -> list[str]:
    """Say which blocks have no maps, because their gates are the same all over the images."""
    asleep: dict[str, list[str]] = {}  # names by their factor
    sentences = []
    for name, gates in flat_blocks(found).items():
        factors = np.concatenate([x.factors for x in gates])
        if all(x.at_start for x in gates):
            asleep.setdefault(f"{factors.mean():.2f}", []).append(name)
        else:
            sentences.append(
                f"CoordAtt at {name} does not depend on the place: its gates differ by at most {TOLERANCE} over an "
                f"image. It scales the channels by {factors.min():.2f} to {factors.max():.2f}. Its maps are not drawn."
            )
    for factor, names in asleep.items():
        its, it = ("their", "they scale") if len(names) > 1 else ("its", "it scales")
        sentences.append(
            f"CoordAtt at {_listed(names)} {'have' if len(names) > 1 else 'has'} stayed at {its} start: {it} every "
            f"channel by {factor} at every place. {its.capitalize()} maps are not drawn."
        )
    return sentences


def _map_notes(found: Inspection) -> list[str]:
    """Say the gamma of each spatial gate, and which have no maps."""
    if not found.spatial_gates:
        return []
    gammas = ", ".join(f"layer {name} {gamma:+.3f}" for name, gamma in found.spatial_gates.items())
    sentences = [f"Gamma of SpatialGate, 0 at the start: {gammas}."]
    maps = [m for x in found.images for m in x.maps]
    flat = [name for name in dict.fromkeys(m.name for m in maps) if all(m.flat for m in maps if m.name == name)]
    if flat:
        sentences.append(
            f"SpatialGate at {_listed(flat)}: the factor differs by at most {TOLERANCE} over an image; not drawn."
        )
    return sentences


def _fusion_notes(found: Inspection) -> list[str]:
    """Say which fusions still weight their inputs equally."""
    asleep = [str(x) for x in found.fusions if np.abs(x.weights - 1 / len(x.weights)).max() <= TOLERANCE]
    if not asleep:
        return []
    which = (
        f"fusion at {asleep[0]} has stayed at its"
        if len(asleep) == 1
        else f"fusions at {_listed(asleep)} have stayed at their"
    )
    return [f"The {which} start: every share is within {TOLERANCE} of equal."]


def _listed(names: Sequence[str]) -> str:
    """Join names, which may contain commas."""
    return " and ".join(filter(None, ("; ".join(names[:-1]), names[-1])))
