"""What mkdocs does for these pages beside markdown: tables of settings, and files of the repository that pages link to.

`<!-- settings: ppo -->` becomes a table of the fields of Config in ppo.py, read from its source: nothing is imported.
`[text](../benchmarks/README.md)` works on the site too: what lies outside docs/ is copied to files/.
"""

import ast
import io
import re
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = "files/"  # where the site has what lies outside docs/
MARKER = re.compile(r"<!-- settings: (\w+) -->")
LINK = re.compile(r"\]\((\.\./[^)#\s]+)")


# --- Settings ---------------------------------------------------------------------------------------------------------
def read_settings(script, root=ROOT):
    """{field: (type, default, comment)} of a script's Config as its source has them, those of its base class last.

    Raises ValueError where there is no such script, no Config, or no comment beside a field.
    """
    path = Path(root) / f"{script}.py"
    if not path.exists():
        raise ValueError(f"settings: {script}: there is no {path.name}")
    source = path.read_text()
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "Config"]
    if not classes:
        raise ValueError(f"settings: {script}: {path.name} has no class Config")

    found, derived = {}, set()
    for node in classes[0].body:
        if not isinstance(node, ast.AnnAssign):
            continue
        name, default, settable = node.target.id, *default_of(node.value)
        if not settable:
            derived.add(name)
            continue
        comment = next((comments[n] for n in range(node.lineno, node.end_lineno + 1) if n in comments), "")
        if not comment:
            raise ValueError(f"settings: {script}: {name} has no comment beside it in {path.name}")
        found[name] = (type_of(node.annotation), source_of(source, default), comment)
    for base in classes[0].bases:
        if isinstance(base, ast.Attribute) and base.attr == "Config":  # ppo.Config
            inherited = read_settings(base.value.id, root)
            found |= {k: v for k, v in inherited.items() if k not in found and k not in derived}
    if not found:
        raise ValueError(f"settings: {script}: Config of {path.name} has no fields")
    return found


def default_of(value):
    """(the default's node, whether it can be set) of what stands right of a field's `=`."""
    if isinstance(value, ast.Call) and getattr(value.func, "id", getattr(value.func, "attr", "")) == "field":
        options = {keyword.arg: keyword.value for keyword in value.keywords}
        settable = getattr(options.get("init"), "value", True)
        return options.get("default", options.get("default_factory")), settable
    return value, True


def source_of(source, node):
    """As it is written: 500_000 and 2.5e-4 say more than 500000 and 0.00025."""
    return "" if node is None else ast.get_source_segment(source, node)


def type_of(annotation):
    """`int` and so on; of Literal["a", "b"] the values to choose from, of Literal[NAMES] where they are listed."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).endswith("Literal"):
        if isinstance(annotation.slice, ast.Name):
            return f"one of `{annotation.slice.id}`"
        values = getattr(annotation.slice, "elts", [annotation.slice])
        return " or ".join(f"`{ast.literal_eval(value)}`" for value in values)
    return f"`{ast.unparse(annotation)}`"


def settings_table(script, root=ROOT):
    """The markdown of a table with a row per setting."""
    lines = ["| name | type | default | what it is |", "| --- | --- | --- | --- |"]
    for name, (kind, default, comment) in read_settings(script, root).items():
        cells = (f"`{name}`", kind, f"`{default}`" if default else "", comment)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def with_settings(markdown, root=ROOT):
    """The markdown of a page with tables in place of its markers."""
    text = MARKER.sub(lambda found: settings_table(found[1], root), markdown)
    if "<!-- settings" in text:
        raise ValueError("a marker for settings is not of the form <!-- settings: SCRIPT -->")
    return text


# --- Files outside docs/ ----------------------------------------------------------------------------------------------
def linked_outside(page):
    """Paths in the repository that a page links to with ../, from docs/ or from another folder of its own."""
    return [(page.parent / link).resolve().relative_to(ROOT) for link in LINK.findall(page.read_text())]


def on_files(files, config):
    """Adds what pages link to outside docs/, and what the pages among these link to."""
    from mkdocs.structure.files import File  # the settings are tested where mkdocs is not installed

    waiting, added = [Path(file.abs_src_path) for file in files.documentation_pages()], set()
    while waiting:
        for path in linked_outside(waiting.pop()):
            if path in added or not (ROOT / path).is_file():  # what is missing is reported as a broken link
                continue
            added.add(path)
            files.append(File.generated(config, OUTSIDE + path.as_posix(), abs_src_path=str(ROOT / path)))
            if path.suffix == ".md":
                waiting.append(ROOT / path)
    return files


def on_page_markdown(markdown, page, config, files):
    if not page.file.src_uri.startswith(OUTSIDE):
        markdown = markdown.replace("](../", f"]({OUTSIDE}")
    return with_settings(markdown)
