"""The documents: README stays short, settings tables say what Config says, code runs, links lead somewhere."""

import ast
import dataclasses
import importlib.util
import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = sorted(ROOT.glob("docs/*.md"))
SCRIPTS = ("ppo", "ppo_rnn", "dqn", "pqn", "apg", "evolve_policy", "meta_evolve_loss")
SPEC = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
hooks = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(hooks)


# --- README -----------------------------------------------------------------------------------------------------------
def test_readme_fits_a_short_visit():
    text = README.read_text()
    assert len(text.splitlines()) <= 150 and len(text.split()) <= 1000


def test_no_document_shows_an_empty_table():
    empty = re.compile(r"--- \|\n(?!\|)")
    assert empty.search("| card | value |\n| --- | --- |\n\nText")
    assert [path.name for path in (README, *PAGES) if empty.search(path.read_text())] == []


# --- Settings ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_settings_table_has_every_setting_with_its_default(script):
    config = importlib.import_module(script).Config
    found = hooks.read_settings(script)
    fields = {field.name: field for field in dataclasses.fields(config) if field.init}
    assert set(found) == set(fields)
    for name, (kind, default, comment) in found.items():
        assert ast.literal_eval(default) == fields[name].default and kind and len(comment) > 3
    table = hooks.settings_table(script).splitlines()
    assert len(table) == 2 + len(fields) and len({line.count(" | ") for line in table}) == 1


def test_a_page_gets_the_table_in_place_of_its_marker():
    page = hooks.with_settings("Before\n\n<!-- settings: ppo -->\n\nAfter")
    assert page.startswith("Before\n\n| name | type") and page.endswith("\n\nAfter")
    assert '| `activation` | `tanh` or `relu` | `"tanh"` | of the hidden layers |' in page
    assert "`500_000`" in page and "`2.5e-4`" in page  # as they are written
    shown = "".join(path.read_text() for path in PAGES)
    assert set(hooks.MARKER.findall(shown)) == set(SCRIPTS)


def test_own_settings_come_before_inherited_ones():
    names = list(hooks.read_settings("meta_evolve_loss"))
    assert names[0] == "env_ids" and names.index("es_lr") < names.index("gamma") and "env_id" not in names


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "there is no toy.py"),
        ("x = 1\n", "has no class Config"),
        ("class Config:\n    pass\n", "has no fields"),
        ("class Config:\n    lr: float = 0.1\n", "lr has no comment"),
    ],
)
def test_a_marker_that_finds_nothing_fails_the_build(tmp_path, source, message):
    if source is not None:
        (tmp_path / "toy.py").write_text(source)
    with pytest.raises(ValueError, match=message):
        hooks.with_settings("<!-- settings: toy -->", tmp_path)


def test_a_marker_that_is_written_wrongly_fails_the_build():
    with pytest.raises(ValueError, match="not of the form"):
        hooks.with_settings("<!-- settings: ppo.py -->")


def test_settings_are_read_as_they_are_written(tmp_path):
    (tmp_path / "toy.py").write_text(
        "from dataclasses import field\n"
        "class Config:\n"
        "    kind: Literal['a', 'b'] = 'a'  # one of two\n"
        "    names: tuple[str, ...] = field(default=())  # some | many\n"
        "    derived: int = field(init=False)  # not to be set\n"
    )
    table = hooks.settings_table("toy", tmp_path).splitlines()[2:]
    assert table == [
        "| `kind` | `a` or `b` | `'a'` | one of two |",
        "| `names` | `tuple[str, ...]` | `()` | some \\| many |",
    ]


# --- Code -------------------------------------------------------------------------------------------------------------
def python_blocks(path):
    return [textwrap.dedent(block) for block in re.findall(r"^ *```python\n(.*?)^ *```", path.read_text(), re.M | re.S)]


JAX_BLOCKS = python_blocks(ROOT / "docs" / "jax.md")


@pytest.mark.parametrize("number", range(len(JAX_BLOCKS)))
def test_every_block_of_the_jax_page_runs_by_itself(number):
    exec(compile(JAX_BLOCKS[number], f"docs/jax.md, block {number}", "exec"), {"__name__": "block"})


@pytest.mark.parametrize("path", [README, *PAGES], ids=lambda path: path.name)
def test_python_in_the_documents_is_python(path):
    for block in python_blocks(path):
        ast.parse(block)


# --- Links ------------------------------------------------------------------------------------------------------------
def without_code(text):
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path):
    """Of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.*)$", without_code(path.read_text()), re.MULTILINE)
    texts = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\s-]", "", text).strip().lower().replace(" ", "-") for text in texts}


@pytest.mark.parametrize("path", [README, ROOT / "benchmarks" / "README.md", *PAGES], ids=lambda p: str(p.name))
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text()))
    for link in links:
        if link.startswith(("https://", "http://")):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.is_relative_to(ROOT) and file.exists(), f"{path.name}: {link}"
        assert not anchor or anchor in anchors(file), f"{path.name}: {link} names no heading there"


def test_every_page_is_in_the_sites_menu():
    menu = (ROOT / "mkdocs.yml").read_text()
    assert [path.name for path in PAGES if f": {path.name}\n" not in menu] == []


def test_the_check_of_links_knows_what_is_missing(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One `two` & three\n\n```bash\n# no heading\n```\n\n## Four [five](six.md)\n")
    assert anchors(page) == {"one-two--three", "four-five"}
