"""Command line of yolo_coordbifpn; options are written as key=value, as for `yolo`.

    yolo-coordbifpn models   list the shipped models and their cost compared with the stock models
    yolo-coordbifpn graft    put the blocks into any model YAML, stock or your own
    yolo-coordbifpn upgrade  put the blocks into a trained checkpoint without changing its output
    yolo-coordbifpn graph    draw the layer graph of a model, with the blocks marked
    yolo-coordbifpn inspect  show what the blocks learned: gates over images, weights of the fusions
    yolo-coordbifpn nms      measure fixed, soft and adaptive NMS in crowds, on a validation set
    yolo-coordbifpn grid     show what each threshold of a grid activation would skip, and set it
    yolo-coordbifpn tiles    predict large images tile by tile; empty tiles are skipped by a grid activation
    yolo-coordbifpn compare  train several models with several seeds, and report which is better, with intervals
    yolo-coordbifpn check    show the versions, the start-up hook and the patches, and find conflicts
    yolo-coordbifpn demo     make a small data set and train a model on it, in four to eight minutes on two CPU cores

`yolo-coordbifpn COMMAND --help` lists the options of a command. Training, validation, prediction and export are stock
`yolo` commands.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CompareError, GraftError, HostError, InspectError, RowError, WeightsError, first_line
from ..patches import hook

if TYPE_CHECKING:
    from ..grafting.variant import Variant

FAILURES = (CompareError, GraftError, HostError, InspectError, RowError, WeightsError)  # each says what is wrong
COMMANDS = ("models", "graft", "upgrade", "graph", "inspect", "nms", "grid", "tiles", "compare", "check", "demo")


class UsageError(Exception):
    """The command line is wrong; the message says what was expected."""


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Words after the program's name; by default those of this process.

    Returns:
        Exit status: 0 for success, 1 for a failure, 2 for a wrong command line, 130 after an interrupt.
    """
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in {"-h", "--help", "help"}:
        print(__doc__.strip())
        return 0
    name, *rest = words
    if name in {"-v", "--version", "version"}:
        from .. import __version__

        print(__version__)
        return 0
    try:
        _search_here()
        return _run(name, rest)
    except UsageError as error:
        known = f"{name} " if name in COMMANDS else ""
        print(f"yolo-coordbifpn: {error} See yolo-coordbifpn {known}--help.", file=sys.stderr)
        return 2
    except FAILURES as error:
        for line in str(error).splitlines():
            print(f"yolo-coordbifpn {name}: {line}", file=sys.stderr)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else first_line(error)
        print(f"yolo-coordbifpn {name}: {reason}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"yolo-coordbifpn {name}: interrupted", file=sys.stderr)
        return 130
    return 1


def _search_here() -> None:
    """Search the working folder first if a fork lies in it, as `python train.py` does there."""
    parsers = os.environ.get(hook.PARSERS, "").replace(",", " ").split()
    if os.getcwd() not in sys.path and any(
        Path(f"{name.replace('.', '/')}.py").is_file() for name in (hook.HOST, *parsers)
    ):
        sys.path.insert(0, os.getcwd())


def _run(name: str, words: list[str]) -> int:
    """Run a command with its words, or print its help; return its exit status."""
    if name not in COMMANDS:
        raise UsageError(f"there is no command {name!r}.{_nearest(name, COMMANDS)} Commands: {', '.join(COMMANDS)}.")
    command = import_module(f".{name}", __name__)
    if {"-h", "--help", "help"} & set(words):
        print((command.__doc__ or "").strip())
        return 0
    return int(command.run(parse(words, command.OPTIONS)))


def parse(words: list[str], options: dict[str, str]) -> dict[str, str]:
    """Read `key=value` words.

    Args:
        words: The words of the command line.
        options: The known keys with their defaults; the key `*` allows any other.

    Returns:
        A value for each key.

    Raises:
        UsageError: If a word has no `=`, or if its key is unknown or given twice.
    """
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"{word!r} is not of the form key=value.")
        if key not in options and "*" not in options:
            raise UsageError(
                f"there is no option {key!r}.{_nearest(key, options)} Options: {', '.join(options) or 'none'}."
            )
        if key in given:
            raise UsageError(f"{key}= is given twice.")
        given[key] = value
    return {**options, **given}


def others(options: dict[str, str], own: Iterable[str], refused: AbstractSet[str], why: str) -> dict[str, str]:
    """Return the options of a command that are arguments of the host.

    Args:
        options: All options.
        own: Those of the command.
        refused: Arguments of the host that the command sets itself.
        why: What is said of these, such as "is not for grid".

    Raises:
        UsageError: If one of them is given.
    """
    given = {k: v for k, v in options.items() if k not in own}
    for key in sorted(refused & given.keys()):
        raise UsageError(f"{key}= {why}.")
    return given


def host_arguments(mode: str, given: dict[str, str]) -> dict[str, Any]:
    """Read arguments of a mode of the host.

    Raises:
        InspectError: If the host does not accept them.
    """
    from ..host.arguments import check_device, read_arguments

    try:
        values = read_arguments(given)
        if values.get("device") is not None:
            check_device(values["device"])
        return values
    except ValueError as error:
        raise InspectError(f"the host's {mode} does not accept these arguments: {error}") from error


def need(command: str, extra: str, *modules: str) -> None:
    """Check that the packages of an extra are installed that a command imports.

    Raises:
        UsageError: If one is not.
    """
    for module in modules:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            raise UsageError(f'{command} needs {error.name}: pip install "yolo_coordbifpn[{extra}]".') from error


def whole_number(options: dict[str, str], key: str, least: int) -> int:
    """Return an option as a whole number.

    Raises:
        UsageError: If it is none, or below `least`.
    """
    try:
        value = int(options[key])
    except ValueError:
        value = least - 1
    if value < least:
        raise UsageError(f"{key}= must be a whole number of at least {least}, got {options[key]!r}.")
    return value


def share(options: dict[str, str], key: str, below: float = 1.0) -> float:
    """Return an option as a number from 0 to, but not including, `below`.

    Raises:
        UsageError: If it is none.
    """
    try:
        value = float(options[key])
    except ValueError:
        value = -1.0
    if not 0 <= value < below:
        raise UsageError(f"{key}= must be a number from 0 to below {below:g}, got {options[key]!r}.")
    return value


def truth(options: dict[str, str], key: str) -> bool:
    """Return an option as a truth value.

    Raises:
        UsageError: If it is neither True nor False.
    """
    if options[key].lower() not in {"true", "false"}:
        raise UsageError(f"{key}= must be True or False, got {options[key]!r}.")
    return options[key].lower() == "true"


def read_variant(options: dict[str, str]) -> Variant:
    """Return the variant that the options of `graft` or `upgrade` describe.

    Raises:
        UsageError: If a value is not allowed, or the options contradict each other.
    """
    from ..grafting.variant import Variant

    given: dict[str, Any] = {x.name: options[x.name] for x in fields(Variant) if x.name in options}
    given |= {key: None for key in ("edge", "repeats", "width", "levels") if not given.get(key)}
    given |= {key: whole_number(options, key, 1) for key in ("repeats", "width") if given[key]}
    if given["edge"]:
        given["edge"] = truth(options, "edge")
    try:
        return Variant(**given)
    except GraftError as error:
        raise UsageError(f"{error}.") from error


def new_file(path: str | Path, *suffixes: str) -> Path:
    """Return the path of a file to write, given as `save=`.

    Raises:
        UsageError: If it has another suffix or exists already, or if there is no such folder.
    """
    save = Path(path).expanduser()
    if save.suffix not in suffixes:
        raise UsageError(f"save= must end in {', '.join(suffixes)}, got {save}.")
    if save.exists():
        raise UsageError(f"save={save} exists already; give another name.")
    if not save.parent.is_dir():
        raise UsageError(f"save={save}: there is no folder {save.parent}.")
    return save


def folder_of(options: dict[str, str], command: str) -> Path:
    """Return the folder that a command writes to, given as `project=` and `name=`."""
    return Path(options["project"] or f"runs/{command}").expanduser() / (options["name"] or command)


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f" Did you mean {near[0]}?" if near else ""
