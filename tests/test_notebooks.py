"""What every notebook has in common: a reader who knows one knows all."""

import ast
import subprocess

import jupytext
import pytest
from papermill import inspect_notebook

from paperlib.paths import IDENTITY, ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    read = jupytext.read(request.param)
    read.metadata["stem"] = request.param.stem
    return read


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters_cell(notebook):
    tagged = [
        cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])
    ]
    assert len(tagged) == 1
    return tagged[0]


def is_imports(cell):
    body = ast.parse(cell.source).body
    return all(isinstance(node, ast.Import | ast.ImportFrom) for node in body)


def imports(notebook):
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield node


def test_opens_with_title_and_parameters(notebook):
    first, second = notebook.cells[:2]
    number, title = notebook.metadata["stem"].split("_", 1)
    assert first.cell_type == "markdown"
    heading = first.source.splitlines()[0].lower()
    assert heading == f"# {number} {title.replace('_', ' ')}"
    assert second is parameters_cell(notebook)


def test_kernel_and_pairing_are_declared(notebook):
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    assert notebook.metadata["jupytext"]["formats"] == "ipynb,py:percent"


def test_parameters_are_config_overrides_and_identity(notebook):
    body = ast.parse(parameters_cell(notebook).source).body
    assert all(isinstance(node, ast.AnnAssign) for node in body)
    names = [node.target.id for node in body]
    assert names[:2] == ["config", "overrides"]
    assert set(names[2:]) == set(IDENTITY[notebook.metadata["stem"]])
    for node in body:
        value = ast.literal_eval(node.value)
        assert type(value).__name__ == node.annotation.id


def test_papermill_reads_every_parameter(notebook, tmp_path):
    """Papermill cannot read an annotated line whose comment holds an equals sign."""
    jupytext.write(notebook, tmp_path / "notebook.ipynb")
    inferred = inspect_notebook(tmp_path / "notebook.ipynb")
    body = ast.parse(parameters_cell(notebook).source).body
    assert set(inferred) == {node.target.id for node in body}


def test_notebooks_define_no_class(notebook):
    for cell in code_cells(notebook):
        nodes = ast.walk(ast.parse(cell.source))
        assert not any(isinstance(node, ast.ClassDef) for node in nodes)


def test_notebooks_are_short(notebook):
    assert 12 <= len(notebook.cells) <= 30
    steps = [cell.source for cell in code_cells(notebook) if not is_imports(cell)]
    assert max(len(source.splitlines()) for source in steps) <= 30


def test_imports_fit_on_one_screen(notebook):
    ours = [
        alias.name
        for node in imports(notebook)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("paperlib")
        for alias in node.names
    ]
    assert len(ours) <= 15
    constants = [name for name in ours if name.isupper()]
    assert not constants  # open_notebook would take them for parameters


def test_notebooks_open_and_end_in_one_line(notebook):
    sources = [cell.source for cell in code_cells(notebook)]
    opening = f'nb = open_notebook("{notebook.metadata["stem"]}", globals())'
    assert sum(opening in source for source in sources) == 1
    assert "nb.finish()" in sources[-1]


def test_the_method_is_there_as_an_equation(notebook):
    if notebook.metadata["stem"] not in ("10_schematics", "11_own_images"):
        text = [c.source for c in notebook.cells if c.cell_type == "markdown"]
        assert any("$" in source for source in text)


def test_no_notebook_with_outputs_is_tracked():
    listed = ["git", "-C", str(ROOT), "ls-files", "*.ipynb"]
    tracked = subprocess.run(listed, capture_output=True, text=True, check=True)
    assert not tracked.stdout
    assert "notebooks/*.ipynb" in (ROOT / ".gitignore").read_text().splitlines()
