"""Patch: rows that name a registered block get their channels from the block table.

The host's `parse_model` is a function of two hundred lines with one `if`/`elif` chain over the module classes. The
patch parses its source and changes the function in three places. One `elif` is added before the chain's last
`else: c2 = ch[...]`. Rows that name a stock block with a registered one inside (`C3k2_CoordAtt`) are built as the stock
block and finished at each `return`. The body is wrapped in a `try` that lets the table explain errors. The result is
compiled without the file's other functions and classes, and the function's code object is replaced in place, so every
name that is already bound to the function sees the change.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from ..errors import HostError
from ..registry import BlockTable
from ..registry.row_builder import RowBuilder, is_own
from ..registry.table import clash
from .replacement import Undo, replace

BUILDER_NAME = "_yolo_coordbifpn_rows"  # the global by which the patched code finds the builder of rows

_BRANCH = f"""
if m in {BUILDER_NAME}:
    c2, args = {BUILDER_NAME}.resolve(m, {BUILDER_NAME}_cfg, ch, i, f, args)
"""
_GUARD = f"""
try:
    pass
except Exception as {BUILDER_NAME}_error:
    {BUILDER_NAME}.explain({BUILDER_NAME}_error, {BUILDER_NAME}_cfg, locals(), globals())
    raise
"""
_STOCK = f"""
{BUILDER_NAME}_cfg = PARAMETER
PARAMETER = {BUILDER_NAME}.stock(PARAMETER, globals(), locals().get("verbose", True))
"""
_FINISH = f"{BUILDER_NAME}.finish(x, {BUILDER_NAME}_cfg, globals())"
_LOOP_TARGET = ast.dump(ast.parse("for i, (f, n, m, args) in x: pass").body[0].target)  # type: ignore[attr-defined]


def patch_parser(host: ModuleType, table: BlockTable, report: Callable[[dict[str, Any]], None] | None = None) -> Undo:
    """Teach the host's `parse_model` the blocks of the table.

    Args:
        host: The module that defines `parse_model`, `ultralytics.nn.tasks`.
        table: The registered blocks.
        report: Called with each model YAML that is built with `verbose`.

    Returns:
        A function that undoes the patch.

    Raises:
        HostError: If the function has an unknown shape or was changed by something else, or the name of a user's block
            is taken.
    """
    function = getattr(host, "parse_model", None)
    if function is None:
        raise HostError(f"{host.__name__} has no function parse_model")
    if not isinstance(function, FunctionType) or function.__module__ != host.__name__:
        raise HostError(f"{host.__name__}.parse_model is not the host's own function but {function!r}")
    original = function.__code__
    code = _extended(host, original)
    check_names(host, [x for x in table if not is_own(x)])

    host.__dict__[BUILDER_NAME] = RowBuilder(table, report)
    for block in table:
        if not clash(block, vars(host)):  # else its rows are the host's own
            expose(host, block)
    undo_code = replace(function, "__code__", code)

    def undo() -> bool:
        undone = undo_code()
        host.__dict__.pop(BUILDER_NAME, None)
        for block in table:
            if host.__dict__.get(block.__name__) is block:
                delattr(host, block.__name__)
        return undone

    return undo


def expose(host: ModuleType, block: type) -> None:
    """Let the host's parser find a block under its class name."""
    setattr(host, block.__name__, block)


def parser_holds(host: ModuleType | None) -> bool:
    """Return whether the host's `parse_model`, wrapped by others or not, asks the block table."""
    function = inspect.unwrap(getattr(host, "parse_model", None))  # type: ignore[arg-type]
    return BUILDER_NAME in getattr(getattr(function, "__code__", None), "co_names", ())


def check_names(host: ModuleType, blocks: list[type]) -> None:
    """Raise a `HostError` if the host has something else under the name of one of the blocks."""
    for block in blocks:
        problem = clash(block, vars(host))
        if problem:
            raise HostError(problem)


def _extended(host: ModuleType, original: CodeType) -> CodeType:
    """Return the code of `parse_model` with our branch and guard in it."""
    try:
        source = inspect.getsource(host)
    except (OSError, TypeError) as error:
        raise HostError(f"the source of {host.__name__} cannot be read ({error})") from error
    return _compiled(source, host.__name__, original)


@functools.lru_cache
def _compiled(source: str, host: str, original: CodeType) -> CodeType:
    """Put our branch and guard into the code of the `parse_model` of a host's module."""
    tree, function = _parsed(source, host, original)
    _add_branch(function, host)
    _add_inside(function, host)
    _add_guard(function)
    code = _function_code(tree, original)
    assert code is not None  # the function was found in the same tree above
    return code


def _parsed(source: str, host: str, original: CodeType) -> tuple[ast.Module, ast.FunctionDef]:
    """Return the syntax tree of a function and the module around it, without its other functions and classes.

    The others are left out before the file is parsed, which takes a fifth of the time, or else afterwards.

    Raises:
        HostError: If the source is not that of the function's code.
    """
    for text in (_without_others(source, original.co_firstlineno), source):
        with contextlib.suppress(SyntaxError):
            tree = ast.parse(text, original.co_filename)
            found = [x for x in tree.body if isinstance(x, ast.FunctionDef) and x.name == original.co_name][:1]
            tree.body = [x for x in tree.body if x in found or not isinstance(x, (ast.FunctionDef, ast.ClassDef))]
            if found and _function_code(tree, original) == original:
                return tree, found[0]
    raise HostError(f"{host}.{original.co_name} is not what its source file says: something else has patched it")


def _without_others(source: str, first: int) -> str:
    """Blank the lines of all functions and classes but the one whose first line is given; strings are not heeded."""
    lines, keep = source.split("\n"), True
    for i, line in enumerate(lines):
        if line[:1].strip(" \t\r)#"):  # a statement begins
            keep = i + 1 == first or not line.startswith(("def ", "class ", "async ", "@"))
        lines[i] = line if keep else ""
    return "\n".join(lines)


def _function_code(module: ast.Module, original: CodeType) -> CodeType | None:
    """Compile a module and find the code object of its function."""
    compiled = compile(module, original.co_filename, "exec", dont_inherit=True)
    return next((x for x in compiled.co_consts if isinstance(x, CodeType) and x.co_name == original.co_name), None)


def _add_branch(function: ast.FunctionDef, host: str) -> None:
    """Put our `elif` before the `else: c2 = ch[...]` that ends the chain over the module classes."""
    loops = [x for x in ast.walk(function) if isinstance(x, ast.For) and ast.dump(x.target) == _LOOP_TARGET]
    ends = [
        node for loop in loops for node in ast.walk(loop) if isinstance(node, ast.If) and _is_last_else(node.orelse)
    ]
    direct = [x for x in ends if any(x in _chain(statement) for loop in loops for statement in loop.body)]
    if len(direct) == 1:  # not one inside a branch
        ends = direct
    if len(loops) != 1 or len(ends) != 1:
        lines = ", ".join(map(str, sorted(x.orelse[0].lineno for x in ends)))
        raise HostError(
            f"{host}.parse_model has another shape than the known parsers ({len(loops)} loops over rows, {len(ends)} "
            f"chains that end in `else: c2 = ch[...]`{f', at the lines {lines}' * bool(lines)}; expected one of each)"
        )
    (end,) = ends
    (branch,) = _located(_BRANCH, end.orelse[0])
    assert isinstance(branch, ast.If)
    branch.orelse = end.orelse
    end.orelse = [branch]


def _chain(statement: ast.stmt) -> list[ast.stmt]:
    """Return an `if` with its `elif`s, another statement alone."""
    found = [statement]
    while isinstance(found[-1], ast.If) and len(found[-1].orelse) == 1:
        found.append(found[-1].orelse[0])
    return found


def _is_last_else(body: list[ast.stmt]) -> bool:
    """Return whether a body gives the layer the channels of the layer that it reads, and does nothing else.

    It is `c2 = ch[f]`, or, if `ch` begins with the image's channels, `c2 = ch[f if f < 0 else f + 1]` or the like.
    """
    if len(body) != 1 or not isinstance(body[0], ast.Assign) or not isinstance(body[0].value, ast.Subscript):
        return False
    target, value = body[0].targets, body[0].value
    names = [x.id for x in ast.walk(value) if isinstance(x, ast.Name)]
    return [ast.unparse(x) for x in target] == ["c2"] and ast.unparse(value.value) == "ch" and {*names} == {"ch", "f"}


def _add_inside(function: ast.FunctionDef, host: str) -> None:
    """Let the table see the YAML before the rows are read, and the layers before they are returned."""
    ends = [*_returns(function)] or [ast.Return()]
    for end in ends:
        if end.value is None:
            raise HostError(f"{host}.parse_model does not return its layers wherever it ends, as the known parsers do")
        (statement,) = _located(_FINISH, end)
        assert isinstance(statement, ast.Expr)
        assert isinstance(statement.value, ast.Call)
        call = statement.value
        if isinstance(end.value, ast.Tuple):  # layers, save
            call.args[0], end.value.elts[0] = end.value.elts[0], call
        else:
            call.args[0], end.value = end.value, call
    parameters = [x.arg for x in (*function.args.posonlyargs, *function.args.args)]
    if not parameters:
        raise HostError(f"{host}.parse_model has no parameter for the model YAML")
    start = _start(function)
    function.body[start:start] = _located(_STOCK.replace("PARAMETER", parameters[0]), function.body[start])


def _returns(node: ast.AST) -> Iterator[ast.Return]:
    """Iterate over the `return`s of a function, without those of functions inside it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Return):
            yield child
        elif not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _returns(child)


def _add_guard(function: ast.FunctionDef) -> None:
    """Wrap the body, except its docstring, in a `try` that lets the table name the row of an error."""
    start = _start(function)
    (guard,) = _located(_GUARD, function.body[-1])
    assert isinstance(guard, ast.Try)
    guard.body = function.body[start:]
    function.body[start:] = [guard]


def _start(function: ast.FunctionDef) -> int:
    """Return the index of a function's first statement after its docstring."""
    return 1 if ast.get_docstring(function) is not None else 0


def _located(source: str, where: ast.AST) -> list[ast.stmt]:
    """Parse a snippet and give all its nodes the line of a node of the host, for tracebacks."""
    body = ast.parse(source).body
    for statement in body:
        for node in ast.walk(statement):
            ast.copy_location(node, where)
    return body
