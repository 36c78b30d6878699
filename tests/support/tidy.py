"""The house rules as functions over syntax trees: each takes a `Source` and yields `Finding`s with the replacement.

`tests/test_tidy.py` runs them over the tree, and each of them over a sample that breaks it. What ruff or mypy check
already is not repeated here. A rule that must be broken is broken in one place, which the exceptions below name.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

FILE_LIMIT = 600
FUNCTION_LIMIT = 70

DOMAINS = frozenset(
    [
        "rooms",
        "sync",
        "e2ee",
        "accounts",
        "oauth",
        "media",
        "push",
        "ephemeral",
        "calls",
        "communities",
        "appservices",
        "moderation",
        "peers",
    ]
)
# What puts the server together, and the commands' work on the whole of it.
COMPOSITION = frozenset(
    {
        "__main__",
        "app",
        "backup",
        "cli",
        "composition",
        "doctor",
        "extensions",
        "operations",
        "seed",
    }
)
# The layers of the architecture, highest first; names on one line may see each other, domains only each other's types.
LAYERS: tuple[frozenset[str], ...] = (
    COMPOSITION,
    frozenset({"api", "gateway"}),
    DOMAINS,
    frozenset({"stream"}),
    frozenset({"store"}),
    frozenset({"db"}),
    frozenset({"http", "runtime", "config"}),
)
LEVEL = {name: len(LAYERS) - number for number, names in enumerate(LAYERS) for name in names}

CORE_LIBRARIES = frozenset({"canonicaljson", "msgspec", "nacl", "signedjson", "unpaddedbase64"})
CORE_FORBIDDEN = frozenset(
    [
        "asyncio",
        "concurrent",
        "datetime",
        "logging",
        "multiprocessing",
        "os",
        "pathlib",
        "queue",
        "random",
        "secrets",
        "select",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "sqlite3",
        "ssl",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "urllib",
        "uuid",
    ]
)
SQL_LIBRARIES = frozenset({"alembic", "psycopg2", "sqlalchemy", "sqlite3"})
# A Deferred and what it fails with are vocabulary; all the rest of Twisted is transport.
TWISTED_EVERYWHERE = frozenset({"twisted.internet.defer", "twisted.python.failure"})

BANNED_CALLS = {
    "time.time": "take a Clock",
    "time.monotonic": "take a Clock",
    "time.sleep": "take a Clock and use callLater",
    "time.time_ns": "take a Clock",
    "datetime.datetime.now": "take a Clock",
    "datetime.datetime.utcnow": "take a Clock",
    "datetime.datetime.today": "take a Clock",
    "datetime.date.today": "take a Clock",
    "os.urandom": "take an Entropy",
    "os.getrandom": "take an Entropy",
    "uuid.uuid1": "take an Entropy",
    "uuid.uuid4": "take an Entropy",
}
BANNED_MODULES = {"random": "take an Entropy", "secrets": "take an Entropy"}
SQL_TEXT = re.compile(
    r"\s*(SELECT\s|INSERT\s+(OR\s+\w+\s+)?INTO\s|UPDATE\s+\S*\s*SET\s|DELETE\s+FROM\s|"
    r"(CREATE|DROP|ALTER)\s+(UNIQUE\s+)?(TABLE|INDEX|DATABASE|SCHEMA)\s|WITH\s+(RECURSIVE\s+)?\w*\s*AS\s*\()"
)
IDENTITY_LABEL = re.compile(r"(room|user|event|device|sender|alias|member)(_n?id)?s?$")
METRICS = frozenset({"Counter", "Gauge", "Histogram", "Summary", "Info", "Enum"})
MUTABLE_MAKERS = frozenset(
    {"dict", "list", "set", "defaultdict", "deque", "OrderedDict", "Counter", "WeakValueDictionary"}
)
READ_ONLY = re.compile(r"(\w+\.)?(Final\[)?(Mapping|Sequence|Collection|AbstractSet|Set)\b")
SET_METHODS = frozenset({"union", "intersection", "difference", "symmetric_difference"})
# Whatever these make of an iterable does not depend on its order.
ORDERLESS = frozenset({"sorted", "set", "frozenset", "any", "all", "sum", "len", "min", "max"})


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule, as one line: where, what, and what to do instead."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


class Source:
    """One Python file."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self.tree = ast.parse(text, path)
        parts = list(Path(path.removeprefix("synapse-compat/")).with_suffix("").parts)
        self.is_package = parts[-1] == "__init__"
        self.parts = parts[:-1] if self.is_package else parts

    @property
    def root(self) -> str:
        return self.parts[0]

    @property
    def area(self) -> str:
        """The folder or module right below the root package: `rooms` for homeserver/rooms/actor.py."""
        return self.parts[1] if len(self.parts) > 1 else ""

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    def line_text(self, line: int) -> str:
        return self.text.splitlines()[line - 1]

    def at(self, node: ast.AST, text: str) -> Finding:
        return Finding(self.path, getattr(node, "lineno", 1), text)

    @cached_property
    def imports(self) -> list[tuple[ast.stmt, str]]:
        """Every import as a dotted name: `from a.b import c` gives `a.b.c`."""
        found: list[tuple[ast.stmt, str]] = []
        for node in self.nodes:
            if isinstance(node, ast.Import):
                found += [(node, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = self._base(node)
                found += [(node, f"{base}.{alias.name}") for alias in node.names]
        return found

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = self.parts if self.is_package else self.parts[:-1]
        above = package[: len(package) - (node.level - 1)]
        return ".".join([*above, *([node.module] if node.module else [])])

    @cached_property
    def aliases(self) -> dict[str, str]:
        """Local names of imported things: `from time import time as now` gives now -> time.time."""
        found: dict[str, str] = {}
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    found[alias.asname or alias.name.split(".")[0]] = (
                        alias.name if alias.asname else alias.name.split(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    found[alias.asname or alias.name] = f"{self._base(node)}.{alias.name}"
        return found

    def full_name(self, node: ast.expr) -> str:
        """The imported thing that an expression names, or the expression's own dotted name."""
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        names.append(self.aliases.get(node.id, node.id))
        return ".".join(reversed(names))


Rule: TypeAlias = Callable[[Source], Iterator[Finding]]


def layers(source: Source) -> Iterator[Finding]:
    """Imports point down only."""
    for node, name in source.imports:
        parts = name.split(".")
        if source.root == "federation" and parts[0] in {"homeserver", "synapse_compat"}:
            yield source.at(
                node, f"federation imports {parts[0]}: give it the value as an argument, or yield a need"
            )
        if source.root == "homeserver" and parts[0] == "synapse_compat":
            yield source.at(
                node, "homeserver imports synapse_compat: it registers itself through its hooks instead"
            )
        if source.root != "homeserver" or parts[0] != "homeserver" or len(parts) < 2:
            continue
        ours, theirs = source.area, parts[1]
        if ours == theirs or ours not in LEVEL or theirs not in LEVEL:
            continue
        if LEVEL[theirs] > LEVEL[ours]:
            yield source.at(
                node, f"{ours} imports {theirs}, a higher layer: let app.py pass it to the constructor"
            )
        elif ours in DOMAINS and theirs in DOMAINS and parts[2:3] != ["types"]:
            yield source.at(
                node, f"{ours} imports {name}: of a sibling only types.py; app.py passes the rest"
            )
        elif {ours, theirs} == {"api", "gateway"}:
            yield source.at(node, f"{ours} imports {theirs}: what both need belongs in the domain below")


def known_area(source: Source) -> Iterator[Finding]:
    """Every package of homeserver has a layer."""
    # An empty file has nothing that could point the wrong way.
    if source.root == "homeserver" and source.area and source.area not in LEVEL and source.text.strip():
        yield Finding(
            source.path, 1, f"{source.area} has no layer: add it to the architecture, here and pyproject.toml"
        )


def pure_core(source: Source) -> Iterator[Finding]:
    """federation has no reactor, clock, entropy, storage or network."""
    if source.root != "federation":
        return
    for statement, name in source.imports:
        top = name.split(".")[0]
        if top in {"federation", "homeserver", "synapse_compat"}:
            continue
        if top in CORE_FORBIDDEN or (top not in sys.stdlib_module_names and top not in CORE_LIBRARIES):
            yield source.at(
                statement, f"federation imports {top}: the core is pure, take what you need as an argument"
            )
    for node in source.nodes:
        if isinstance(node, ast.Call) and source.full_name(node.func) in {"open", "print", "input"}:
            yield source.at(node, "input or output in the core: return a value")


def sql_libraries(source: Source) -> Iterator[Finding]:
    """Only store and db know SQL."""
    if source.root == "homeserver" and source.area not in {"store", "db"}:
        for node, name in source.imports:
            if name.split(".")[0] in SQL_LIBRARIES:
                yield source.at(
                    node, f"{name} outside store and db: write a function over a transaction in store"
                )


def transport(source: Source) -> Iterator[Finding]:
    """Only the transport imports Twisted beyond Deferreds; only the SFU imports aiortc."""
    if source.root != "homeserver":
        return
    module = "/".join(source.parts[1:])
    allowed = source.area in {"http", "runtime"} | COMPOSITION or module in {"gateway/ws", "db/threads"}
    for node, name in source.imports:
        top = name.split(".")[0]
        if top in {"twisted", "treq"} and not allowed and name.rpartition(".")[0] not in TWISTED_EVERYWHERE:
            yield source.at(node, f"{name}: only http, runtime and __main__ know Twisted beyond Deferreds")
        if top == "aiortc" and not module.startswith("calls/sfu"):
            yield source.at(node, "aiortc outside calls/sfu")


def injected(source: Source) -> Iterator[Finding]:
    """Time, entropy and the reactor are arguments."""
    reactor_allowed = source.parts == ["homeserver", "__main__"] or source.area == "cli"
    for statement, name in source.imports:
        if name == "twisted.internet.reactor" and not reactor_allowed:
            yield source.at(statement, "imports the reactor: take a Clock, or the reactor as an argument")
        if name.startswith("twisted.internet.threads") and source.area not in {"db", "runtime"}:
            yield source.at(
                statement,
                "deferToThread and its kin outside db: use db.read, db.write or a pool given to you",
            )
        if name.split(".")[0] in BANNED_MODULES and not _may_be_random(source):
            yield source.at(statement, f"{name}: {BANNED_MODULES[name.split('.')[0]]}")
    if _may_be_random(source):
        return
    for node in source.nodes:
        # The bare function too: handing time.time to somebody is as bad as calling it.
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            name = source.full_name(node)
            imported = not isinstance(node, ast.Name) or node.id in source.aliases
            if name in BANNED_CALLS and imported:
                yield source.at(node, f"{name}: {BANNED_CALLS[name]}")


def _may_be_random(source: Source) -> bool:
    return source.area in {"runtime", "__main__"} and source.root == "homeserver"


def rule_names(source: Source) -> Iterator[Finding]:
    """The core never compares room versions."""
    if source.root != "federation" or source.parts[1:] == ["versions"]:
        return
    for node in source.nodes:
        if not isinstance(node, ast.Compare):
            continue
        operands = [node.left, *node.comparators]
        named = [operand for operand in operands if isinstance(operand, ast.Name | ast.Attribute)]
        names = [operand.id if isinstance(operand, ast.Name) else operand.attr for operand in named]
        literal = any(isinstance(operand, ast.Constant | ast.Tuple | ast.Set) for operand in operands)
        nothing = any(isinstance(operand, ast.Constant) and operand.value is None for operand in operands)
        if literal and not nothing and any(name in {"version", "room_version"} for name in names):
            yield source.at(node, "compares room versions: ask for a named rule of the version's record")


def set_order(source: Source) -> Iterator[Finding]:
    """No set is iterated without `sorted` where the order could reach the outside."""
    if source.root != "federation" and source.parts[:2] != ["homeserver", "rooms"]:
        return
    harmless = _harmless_comprehensions(source)
    for scope in [source.tree, *(node for node in source.nodes if isinstance(node, _FUNCTIONS))]:
        names = _set_names(scope)
        for node in _own_nodes(scope):
            iterables: list[ast.expr] = []
            if isinstance(node, ast.For):
                iterables = [node.iter]
            elif isinstance(node, ast.ListComp | ast.GeneratorExp | ast.DictComp) and node not in harmless:
                iterables = [generator.iter for generator in node.generators]
            elif isinstance(node, ast.Call) and source.full_name(node.func) in {
                "list",
                "tuple",
                "iter",
                "enumerate",
            }:
                iterables = list(node.args)
            for iterable in iterables:
                if _is_set(iterable, names) and "# any order" not in source.line_text(iterable.lineno):
                    yield source.at(
                        iterable, "iterates a set: use sorted(), or say why not with `# any order: …`"
                    )


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope without those of the functions inside it."""
    for child in ast.iter_child_nodes(scope):
        if not isinstance(child, _FUNCTIONS):
            yield child
            yield from _own_nodes(child)


def _harmless_comprehensions(source: Source) -> set[ast.AST]:
    found: set[ast.AST] = set()
    for node in source.nodes:
        if isinstance(node, ast.Call):
            orderless = isinstance(node.func, ast.Name) and node.func.id in ORDERLESS
            gathered = isinstance(node.func, ast.Attribute) and node.func.attr in {*SET_METHODS, "update"}
            if orderless or gathered:
                found.update(node.args)
    return found


def _set_names(scope: ast.AST) -> set[str]:
    """Names that are sets in this scope, by annotation or by what is assigned to them."""
    names: set[str] = set()
    if isinstance(scope, _FUNCTIONS):
        arguments = scope.args
        for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
            if argument.annotation is not None and _is_set_type(argument.annotation):
                names.add(argument.arg)
    for node in _own_nodes(scope):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and _is_set_type(node.annotation)
        ):
            names.add(node.target.id)
        elif isinstance(node, ast.Assign) and _is_set(node.value, names):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return names


def _is_set_type(annotation: ast.expr) -> bool:
    text = ast.unparse(annotation)
    return bool(re.match(r"(\w+\.)?(set|frozenset|Set|FrozenSet|AbstractSet|MutableSet)\b", text))


def _is_set(node: ast.expr, names: set[str]) -> bool:
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    if isinstance(node, ast.Name):
        return node.id in names
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd | ast.Sub | ast.BitXor):
        return _is_set(node.left, names) or _is_set(node.right, names)
    if isinstance(node, ast.IfExp):
        return _is_set(node.body, names) or _is_set(node.orelse, names)
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name):
            return node.func.id in {"set", "frozenset"}
        return isinstance(node.func, ast.Attribute) and node.func.attr in SET_METHODS
    return False


def plain_sql(source: Source) -> Iterator[Finding]:
    """SQL is never put together from strings."""
    for node in source.nodes:
        pieces: list[ast.expr] = []
        if isinstance(node, ast.JoinedStr) and any(
            isinstance(part, ast.FormattedValue) for part in node.values
        ):
            pieces = node.values
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod | ast.Add):
            pieces = [node.left]
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format"
        ):
            pieces = [node.func.value]
        first = pieces[0] if pieces else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str) and SQL_TEXT.match(first.value):
            constant = isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant)
            if not (constant and isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)):
                yield source.at(
                    node, "SQL put together from strings: use SQLAlchemy Core or bound parameters"
                )


def metric_labels(source: Source) -> Iterator[Finding]:
    """No metric has one series per room or user."""
    for node in source.nodes:
        if not isinstance(node, ast.Call) or source.full_name(node.func).split(".")[-1] not in METRICS:
            continue
        labels = [*node.args[2:3], *(word.value for word in node.keywords if word.arg == "labelnames")]
        for label in (inner for value in labels for inner in ast.walk(value)):
            if isinstance(label, ast.Constant) and IDENTITY_LABEL.search(str(label.value)):
                yield source.at(
                    label, f"metric label {label.value!r}: a series per room or user; count instead"
                )


def route_anchors(source: Source) -> Iterator[Finding]:
    """Every route says which section of the specification it implements."""
    for node in source.nodes:
        if not isinstance(node, ast.Call) or source.full_name(node.func).split(".")[-1] != "Route":
            continue
        given = [word.value for word in node.keywords if word.arg == "spec"]
        spec = given[0] if given else None
        if spec is None and not any(word.arg is None for word in node.keywords):
            yield source.at(node, 'a route without spec="document#section"')
        elif isinstance(spec, ast.Constant) and not re.fullmatch(r"[\w./-]+#[\w.-]+", str(spec.value)):
            yield source.at(node, f'a route\'s spec must read "document#section", not {spec.value!r}')


def size(source: Source) -> Iterator[Finding]:
    """Files and functions fit in a head."""
    lines = len(source.text.splitlines())
    if lines > FILE_LIMIT:
        yield Finding(source.path, 1, f"{lines} lines, over {FILE_LIMIT}: split it, one file per idea")
    for node in source.nodes:
        if isinstance(node, _FUNCTIONS):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LIMIT:
                yield source.at(
                    node, f"{node.name} has {length} lines, over {FUNCTION_LIMIT}: split it by step"
                )


def typing_comments(source: Source) -> Iterator[Finding]:
    """`# type: ignore` and `# noqa` say what they ignore."""
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.COMMENT:
            if re.search(r"#\s*type:\s*ignore(?!\[)", token.string):
                yield Finding(
                    source.path, token.start[0], "`# type: ignore` without a code: name it in brackets"
                )
            if re.search(r"#\s*noqa(?!:)", token.string, re.IGNORECASE):
                yield Finding(source.path, token.start[0], "`# noqa` without a code: name it after a colon")


def whole_imports(source: Source) -> Iterator[Finding]:
    """Imports stand at the top, for everybody."""
    for function in (node for node in source.nodes if isinstance(node, _FUNCTIONS)):
        for inner in _own_nodes(function):
            if isinstance(inner, ast.Import | ast.ImportFrom):
                yield source.at(inner, "an import inside a function: import at the top, or break the cycle")
    for branch in source.nodes:
        if isinstance(branch, ast.If) and source.full_name(branch.test).split(".")[-1] == "TYPE_CHECKING":
            yield source.at(branch, "TYPE_CHECKING hides a cycle: move the type down into types.py")


def module_state(source: Source) -> Iterator[Finding]:
    """No module-level state, no globals."""
    for node in source.tree.body:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        empty = isinstance(value, ast.List | ast.Set) and not value.elts
        empty = empty or (isinstance(value, ast.Dict) and not value.keys)
        made = isinstance(value, ast.Call) and source.full_name(value.func).split(".")[-1] in MUTABLE_MAKERS
        if isinstance(node, ast.AnnAssign) and READ_ONLY.match(ast.unparse(node.annotation)):
            continue  # mypy keeps everybody from writing to it
        if empty or (made and isinstance(value, ast.Call) and not value.args):
            yield source.at(node, "an empty container at module level is state: give it to an owner")
    for inner in source.nodes:
        if isinstance(inner, ast.Global):
            yield source.at(inner, "a global variable: give it to an owner")


def swallowed(source: Source) -> Iterator[Finding]:
    """No exception disappears."""
    for node in source.nodes:
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or source.full_name(node.type) in {"Exception", "BaseException"}
            if broad and len(node.body) == 1 and isinstance(node.body[0], ast.Pass | ast.Continue):
                yield source.at(
                    node, "swallows every exception: name the one you expect, or log it with its id"
                )


def purpose(source: Source) -> Iterator[Finding]:
    """Every module says what it is for."""
    if source.text.strip() and ast.get_docstring(source.tree) is None:
        yield Finding(source.path, 1, "no module docstring: say what it is for and what it must never do")


# For everything that ships, and for everything that we write.
PRODUCT_RULES: tuple[Rule, ...] = (
    layers,
    known_area,
    pure_core,
    sql_libraries,
    transport,
    injected,
    rule_names,
    set_order,
    plain_sql,
    metric_labels,
    route_anchors,
    whole_imports,
    module_state,
    swallowed,
)
COMMON_RULES: tuple[Rule, ...] = (size, typing_comments, purpose)
