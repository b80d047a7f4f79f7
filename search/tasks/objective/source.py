"""What a function's code is: which files it is made of, and a digest of them."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import sys
import textwrap
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

FROM_FILE = "__loaded_from_file__"  # set on a module that only its file's path leads to
OURS = ("search", "trainables")  # a new version of the search is no change of the objective


def code_digest(function: Any, working_dir: Path, file: Path | None = None) -> str:
    """Return 32 hex digits of a function's code, comments and blank lines aside.

    It covers the function's file (or ``file``, which may import it from another one) and the
    modules of the working folder that the file imports, directly or not; not the statements of the
    file that begin a search, which may ask for more trials another time. A function of a notebook
    or an interactive session: its own source, or its byte code. What it closes over is no part of
    it.
    """
    inner = innermost(function)
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    if file := file or source_file(function):
        parts = [f"{name} {_dump(_without_searches(_parsed(file)))}"]
        if "<locals>" in name:
            parts.append(source_text(inner))
        modules = local_modules(file, working_dir)
        parts += [f"{module} {_dump(_parsed(path))}" for module, path in sorted(modules.items())]
        if "<lambda>" in name:  # of which a file may have many
            parts.append(_code_text(inner.__code__))
    else:
        parts = [source_text(inner)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _without_searches(module: ast.Module) -> ast.Module:
    """Return a file without its statements that call ``fmin``, or that run in a script only."""
    kept = [each for each in module.body if not (_calls_fmin(each) or _is_main_guard(each))]
    return ast.Module(body=kept, type_ignores=[])


def _calls_fmin(statement: ast.stmt) -> bool:
    calls = (node.func for node in ast.walk(statement) if isinstance(node, ast.Call))
    return any("fmin" in (getattr(f, "id", ""), getattr(f, "attr", "")) for f in calls)


def _is_main_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "__main__" in ast.dump(statement.test)


def innermost(function: Any) -> Any:
    """Return the function or class below partials, methods and decorators."""
    while True:
        if isinstance(function, functools.partial | functools.partialmethod):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif not (inspect.isfunction(function) or inspect.isclass(function)):
            return type(function)
        else:
            return function


def source_file(function: Any) -> Path | None:
    """Return the file that a function is written in; None: a notebook, a session, no Python."""
    try:
        file = inspect.getsourcefile(innermost(function))
    except TypeError:
        return None
    path = None if file is None else Path(file)
    return path.resolve() if path is not None and path.suffix == ".py" and path.is_file() else None


def home(function: Any) -> Path:
    """Return the folder that a function's imports are looked for in, if nobody names one.

    That of its file, or for a module of a package that of the package; for a notebook the current
    one.
    """
    file = source_file(function)
    if file is None:
        return Path.cwd()
    module = str(innermost(function).__module__)
    up = module.count(".") + (file.name == "__init__.py")
    return file.parents[up]


def line_of_user(frames: Sequence[traceback.FrameSummary]) -> str:
    """Return "FILE, line N: " of the innermost frame that is the user's own; else nothing."""
    for frame in reversed(frames):
        path = Path(frame.filename)
        is_ours = path.parent == Path(__file__).parent
        is_pythons = frame.filename.startswith("<") or "importlib" in path.parts
        if (
            not is_ours
            and not is_pythons
            and not {"site-packages", "dist-packages"} & {*path.parts}
        ):
            return f"{path.name}, line {frame.lineno}: "
    return ""


def local_modules(file: Path, working_dir: Path) -> dict[str, Path]:
    """Return the modules of a folder that a file imports, directly or not, by name."""
    found: dict[str, Path] = {}
    waiting = [(file, _module_name(file, working_dir))]
    while waiting:
        path, name = waiting.pop()
        for imported in _imports(_parsed(path), name, is_package=path.name == "__init__.py"):
            for module, place in _resolved(imported, working_dir):
                if module not in found and place != file:
                    found[module] = place
                    waiting.append((place, module))
    return found


def imports_from(function: Any, working_dir: Path) -> bool:
    """Tell whether unpickling or calling a function imports from a folder, as far as one can see.

    A function of the script or of a ``FILE.py`` is pickled by value, so its own file is not needed.
    """
    inner = innermost(function)
    if file := source_file(function):
        module = sys.modules.get(inner.__module__)
        is_by_value = inner.__module__ == "__main__" or hasattr(module, FROM_FILE)
        is_inside = file.is_relative_to(working_dir) and not is_by_value
        return is_inside or bool(local_modules(file, working_dir))
    # in a notebook the imports are in other cells: what they brought are the function's globals
    values = getattr(inner, "__globals__", {}).values()
    modules = (value if inspect.ismodule(value) else inspect.getmodule(value) for value in values)
    return any(_is_within(module, working_dir) for module in modules if module is not None)


def _is_within(module: ModuleType, working_dir: Path) -> bool:
    """Tell whether a module came from a folder, and not from an environment in it."""
    file = getattr(module, "__file__", None)
    if not file or module.__name__ == "__main__" or module.__name__.split(".")[0] in OURS:
        return False
    path = Path(file)
    return path.is_relative_to(working_dir) and "site-packages" not in path.parts


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes(), filename=str(file))
    except (SyntaxError, ValueError):  # never imported as it stands
        return ast.Module(body=[], type_ignores=[])


def _module_name(file: Path, working_dir: Path) -> str:
    if not file.is_relative_to(working_dir):
        return file.stem
    parts = file.relative_to(working_dir).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[str]:
    """Yield the absolute names that a module imports, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".") if module else []
                up = node.level - is_package
                package = ".".join(parts[: len(parts) - up] if up else parts)
                base = ".".join(part for part in (package, base) if part)
            if base:
                yield base
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)


def _resolved(imported: str, working_dir: Path) -> Iterator[tuple[str, Path]]:
    """Yield a module and the packages around it, as far as they are in the folder."""
    parts = imported.split(".")
    if parts[0] in OURS:
        return
    for count in range(1, len(parts) + 1):
        place = working_dir.joinpath(*parts[:count])
        for path in (place / "__init__.py", place.with_name(place.name + ".py")):
            if path.is_file():
                yield ".".join(parts[:count]), path
                break


def _dump(node: Any) -> str:
    """Return a syntax tree as text: without positions, the same in each version of Python."""
    if isinstance(node, ast.AST):
        # versions differ in which empty fields they have
        fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
        inner = ", ".join(f"{name}={_dump(value)}" for name, value in fields)
        return f"{type(node).__name__}({inner})"
    return f"[{', '.join(map(_dump, node))}]" if isinstance(node, list) else repr(node)


def source_text(inner: Any) -> str:
    """Return the code of a function or class as text: its syntax tree, or its byte code."""
    try:
        return _dump(ast.parse(textwrap.dedent(inspect.getsource(inner))))
    except (OSError, TypeError, SyntaxError):
        code = getattr(inner, "__code__", None)
        return repr(inner) if code is None else _code_text(code)


def _code_text(code: CodeType) -> str:
    constants = list(map(_constant_text, code.co_consts))
    return f"{code.co_code.hex()} {constants} {code.co_names} {code.co_varnames}"


def _constant_text(constant: Any) -> str:
    if isinstance(constant, CodeType):
        return _code_text(constant)
    # the order of a set of texts is another in each process
    return repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)
