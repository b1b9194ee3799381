"""What the pages need and Sphinx does not have: our docstrings as they are written, MathML, evidence, inner links."""

import ast
import importlib
import inspect
import json
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml

ROOT = Path(__file__).parents[1]
PACKAGES = [path.stem for path in (ROOT / "docs" / "api").glob("*.md") if path.stem != "index"]
PAGES = {
    "ctrain_jax/README.md": "/algebra.md",
    "configs/leaderboard/README.md": "/leaderboard.md",
    "configs/published/README.md": "/published.md",
}


def setup(app):
    """The extension."""
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-process-docstring", docstring, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", skip)
    app.connect("source-read", written)
    app.connect("include-read", linked)
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def signature(app, what, name, thing, options, text, returned):
    """A signature as it is written: `jax.Array`, not what that stands for. Of a tuple, the names of its fields."""
    if what == "class":
        found = fields(thing)
        told = any(field.comment for field in found.values())
        shown = ", ".join(found if told else (field.code for field in found.values()))
        return (f"({shown})", None) if found else None
    if what not in ("function", "method") or not inspect.isfunction(thing):
        return None
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
    shown = public_names(thing)
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and part.id in shown:
            part.id = shown[part.id]
    arguments = node.args
    if what == "method":
        arguments.args = arguments.args[1:]
    return f"({ast.unparse(arguments)})", ast.unparse(node.returns) if node.returns else None


def docstring(app, what, name, thing, options, lines):
    """Fields of a tuple from the comments beside them; no types in front of a colon, which the signature has."""
    for i, line in enumerate(lines[:-1]):
        if line.strip() in ("Returns:", "Yields:"):
            lines[i + 1] = re.sub(r"\S", r": \g<0>", lines[i + 1], count=1)
    if what == "data":
        lines[:] = said_of(name)
    if what in ("property", "attribute", "data"):
        lines[:1] = [f": {line}" for line in lines[:1]]
    found = fields(thing) if what == "class" else {}
    if any(field.comment for field in found.values()):
        lines += ["", "Fields:", *(f"  {name} ({field.type}): {field.comment}" for name, field in found.items())]


def skip(app, what, name, thing, skipped, options):
    """Of the members of a class, functions and properties of ours are shown alone: fields are in its docstring."""
    ours = str(getattr(getattr(thing, "fget", thing), "__module__", "")).startswith("ctrain_jax")
    return True if what == "class" and not ours else None


def said_of(name):
    """The lines of the string behind the definition of a name that no class or function has: `Batch = dict[...]`."""
    package, short = name.rsplit(".", 1)
    for path in Path(importlib.import_module(package).__file__).parent.glob("_*.py"):
        nodes = ast.parse(path.read_text()).body
        for node, behind in zip(nodes, nodes[1:], strict=False):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == short and isinstance(behind, ast.Expr):
                return [*behind.value.value.splitlines(), ""]
    return []


class Field(NamedTuple):
    """A field of a class, in words of its source."""

    type: str
    code: str
    comment: str


def fields(thing):
    """{name: Field} of a NamedTuple or a dataclass."""
    if not (hasattr(thing, "_fields") or hasattr(thing, "__dataclass_fields__")):
        return {}
    source = textwrap.dedent(inspect.getsource(thing))
    found = {}
    for node in ast.parse(source).body[0].body:
        if isinstance(node, ast.AnnAssign):
            behind = source.splitlines()[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
            comment = behind.removeprefix("  # ").split("  # ")[0].replace("*", r"\*")
            found[node.target.id] = Field(ast.unparse(node.annotation), ast.unparse(node), comment)
    return found


def public_names(function):
    """{a name in the module of a function: where users find it}, of our own classes."""
    public = {}
    for package in PACKAGES:
        module = importlib.import_module(f"ctrain_jax.{package}")
        public |= {id(getattr(module, n)): f"ctrain_jax.{package}.{n}" for n in getattr(module, "__all__", ())}
    return {
        name: public[id(x)] for name, x in function.__globals__.items() if public.get(id(x), "").endswith(f".{name}")
    }


def written(app, page, source):
    """Tables in the place of their marks, from what was measured."""
    for mark, table in {"evidence": evidence, "scenarios": scenarios}.items():
        if (comment := f"<!-- {mark} -->") in source[0]:
            source[0] = source[0].replace(comment, unbroken(table()))


def evidence():
    """A section for each file of evidence, by family."""
    from experiments.evidence import FOLDER, table

    found = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]
    sections = []
    for family in ("continual", "peft", "fault", "optim", "metrics", "analysis", "streams"):
        sections.append(f"## Evidence: {family}")
        for one in found:
            if one["factory"].split(".")[1] == family:
                # The function is the title.
                rows = [line.split("|", 2)[2] for line in table([one]).splitlines()]
                measured = f"`{one['command']}` · {len(one['seeds'])} seeds · {one['date']}"
                sections += [f"### {one['name']}", one["paper"], measured, "\n".join(f"|{row}" for row in rows)]
    return "\n\n".join(sections)


def scenarios():
    """Split-MNIST, learners by scenarios."""
    cells = json.loads((ROOT / "configs" / "published" / "split_mnist.json").read_text())["cells"]
    learners = dict.fromkeys(cell.split(",")[1] for cell in cells)
    rows = ["| | task | domain | class |", "|---|---|---|---|"]
    for learner in learners:
        ours = [cells.get(f"{scenario},{learner}") for scenario in ("task", "domain", "class")]
        if all(ours):
            rows.append(
                f"| `{learner}` | " + " | ".join(f"{o['accuracy']:.1f} ± {o['half_width']:.1f}" for o in ours) + " |"
            )
    return "\n".join(rows)


def linked(app, path, page, content):
    """What is included of a README: its links to others lead to the pages that include these, those to files of
    evidence to their section, and those to files that no page shows are words."""
    folder = (ROOT / "docs" / path).resolve().parent

    def follow(match):
        target = (folder / match[2]).resolve()
        name = target.relative_to(ROOT).as_posix() if target.is_relative_to(ROOT) else ""
        if name in PAGES:
            return f"[{match[1]}]({PAGES[name]})"
        if name.startswith("ctrain_jax/evidence/"):
            return f"[{match[1]}](/methods.md#{target.stem})"
        return match[1] if name.startswith("configs/") else match[0]

    content[0] = unbroken(re.sub(r"\[([^\]]*)\]\((?!https?:|#)([^)]+)\)", follow, content[0]))


def unbroken(text):
    """Where a table has a number and its margin, they stay on one line."""
    return re.sub(r"(?m)^\|.*", lambda row: row[0].replace(" ± ", "\u00a0±\u00a0"), text)


def inline_math(translator, node):
    """A formula in a line."""
    write_math(translator, node, as_block=False)


def block_math(translator, node):
    """A formula of its own."""
    write_math(translator, node, as_block=True)


def write_math(translator, node, as_block):
    """MathML: browsers draw it without a script and without a network."""
    code = re.sub(r"\\([bB]igg?)(?![a-zA-Z])", r"\\\1l", node.astext())
    drawn = tex2mathml(code, as_block=as_block)
    # Browsers put no space where a function is applied to a letter, and let double bars grow with what is beside them.
    drawn = drawn.replace("<mo>&ApplyFunction;</mo>", '<mspace width="0.17em"/>')
    drawn = re.sub("<mo>(?=‖)", '<mo stretchy="false">', drawn)
    translator.body.append(drawn)
    raise SkipNode
