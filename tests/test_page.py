"""The page of the paper: its parts, and the whole in a real browser."""

import html
import json
import os
import re
import shutil
import subprocess
from types import SimpleNamespace

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from paperlib import paths
from paperlib.atomic import write_text
from paperlib.config import load_config
from paperlib.recordings.sensors import sensor_info
from paperlib.reporting import page, pictures
from paperlib.reporting.notebook_page import notebook_page
from paperlib.reporting.tables import save_table
from workflow import progress

CHANNELS = ["Fz", "Cz", "Pz", "Oz", "C3", "C4", "T7", "T8", "O1", "O2", "F7", "F8"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--allow-file-access-from-files --enable-logging=stderr --virtual-time-budget=5000"
).split()
CHECKS = """
<iframe id="paper" style="width: 390px; height: 800px; border: 0"></iframe>
<script>
const frame = document.getElementById("paper");
frame.srcdoc = PAGE;
frame.onload = () => {
  const paper = frame.contentDocument, found = {};
  const all = selector => [...paper.querySelectorAll(selector)];
  found.images = all("img").length;
  found.loaded = all("img").every(image => image.complete && image.naturalWidth > 0);
  found.width = paper.documentElement.scrollWidth;
  const maps = paper.querySelector(".maps img"), slider = paper.getElementById("time");
  const place = () => maps.getBoundingClientRect().left;
  const before = place();
  slider.value = 7;
  slider.dispatchEvent(new Event("input"));
  found.moved = before - place();
  found.map = paper.querySelector(".maps").getBoundingClientRect().width;
  found.moment = paper.querySelector("output").textContent;
  const table = paper.getElementById("tab01_things_eeg2");
  const rows = () => [...table.querySelectorAll("tbody tr")];
  const column = () => rows().map(row => row.cells[2].textContent);
  table.querySelectorAll("th button")[2].click();
  found.falling = column();
  table.querySelectorAll("th button")[2].click();
  found.rising = column();
  document.title = JSON.stringify(found);
};
</script>
"""


def make_table(folder, name="tab"):
    methods = ["Ours", "Zero", "Ridge", "Published: Ours & others"]
    wide = pd.DataFrame(
        {"n": "2", "MSE ↓": ["0.100 [0.050, 0.200]", "–", "1,000.5", "0.109"]},
        index=pd.Index(methods, name="Method"),
    )
    tidy = pd.DataFrame({"method": methods, "mean": 1.0})
    save_table(folder / name, tidy=tidy, wide=wide, caption="Text.", simulated=True)
    return page.read_table(folder / f"{name}.md")


def make_record(folder, job="04_train_things-eeg2_ours_v_sub-01"):
    record = {"started": "2026-11-26T04:22:29+00:00", "commit": None}
    record |= {"seconds": 60.0, "core_seconds": 120.0, "peak_memory_bytes": 2**30}
    record |= {"changed_files": 0, "python": "3.11.7", "machine": "Linux x86_64"}
    file = folder / f"{job}.json"
    write_text(file, json.dumps(record | {"packages": {"torch": "2"}}))
    return file


def test_tables_are_read_as_written(tmp_path):
    table = make_table(tmp_path)
    assert table["header"] == ["Method", "n", "MSE ↓"]
    assert table["rows"][0]["cells"] == ["Ours", "2", "0.100 [0.050, 0.200]"]
    assert [row["published"] for row in table["rows"]] == [False, False, False, True]
    assert table["rows"][3]["cells"][0] == "Ours & others"
    assert table["caption"] == "Simulated participants. Text."


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_pictures_are_embedded_as_large_as_wanted(mode, tmp_path):
    Image.new(mode, (400, 100), "red").save(tmp_path / "wide.png")
    picture = pictures.embed(tmp_path / "wide.png", scale=0.5)
    assert picture["src"].startswith("data:image/webp;base64,")
    assert (picture["width"], picture["height"]) == (200, 50)


def test_maps_show_every_value_where_its_sensor_is():
    values = np.zeros((2, 3, len(CHANNELS)))
    values[0, 1, CHANNELS.index("O1")] = 1.0  # back, left
    image = pictures.draw_maps(values, sensor_info(CHANNELS, 100.0), limit=1.0, size=60)
    assert image.size == (180, 120)
    drawn = np.asarray(image).astype(int)
    redness = (drawn[..., 0] - drawn[..., 2])[:60, 60:120]
    row, column = np.unravel_index(redness.argmax(), redness.shape)
    assert row > 40 and 10 < column < 30
    assert drawn[0, 0, 3] == 0  # outside of the head
    rest = np.unique(drawn[60:].reshape(-1, 4), axis=0)
    assert len(rest) == 2  # the middle of the colors, and nothing


def test_equations_of_notebooks_need_no_network(tmp_path):
    text = "Let $x\n< 1$ and\n\n$$y = \\frac{1}{2}$$\n\nin *all*."
    cells = [nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell("a = 'b'")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    made = notebook_page(tmp_path / "a.ipynb")
    assert made.count("<math") == 2 and "<mfrac>" in made and "<em>all</em>" in made
    assert "$" not in made.split("<main>")[1] and "http" not in made.split("</style>")[
        1
    ].replace("http://www.w3.org/1998/Math/MathML", "")


def test_records_are_summed_up_by_notebook(tmp_path):
    jobs = ("04_train_b", "05_sample_a", "04_train_a")
    run = page.read_records([make_record(tmp_path, job) for job in jobs])
    assert [row["jobs"] for row in run["costs"]] == [[jobs[2], jobs[0]], [jobs[1]]]
    assert [row["core_minutes"] for row in run["costs"]] == [4.0, 2.0]
    assert run["core_minutes"] == 6.0 and run["began"] == "2026-11-26 04:22"


def test_the_page_shows_what_is_there_while_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    cfg, file = load_config("mini"), tmp_path / "results/mini/paper.html"
    progress.show_progress(cfg, "3 jobs left")
    assert "3 jobs left" in file.read_text()
    records = tmp_path / "results/mini/records"
    began = make_record(records).stat().st_mtime
    old, new = paths.MAIN_TABLES.values()
    for name, age in ((old, 1), (new, -1)):
        make_table(tmp_path / "tables/mini", name)
        os.utime(tmp_path / f"tables/mini/{name}.md", (began - age,) * 2)
    progress.show_progress(cfg, "2 jobs left")
    text = file.read_text()
    assert "2 jobs left" in text and "notebooks/04_train" in text
    assert f'<figure id="{new}">' in text and f'<figure id="{old}">' not in text
    make_record(records, "12_paper")
    progress.show_progress(cfg, "1 job left")
    assert file.read_text() == text  # what notebook 12 has written stays


@pytest.fixture
def paper(tmp_path):
    """Render a page whose numbers are made up."""
    values = np.random.default_rng(0).normal(size=(3, 12, len(CHANNELS)))
    maps = pictures.draw_maps(values, sensor_info(CHANNELS, 100.0), limit=2.0, size=24)
    fig, ax = plt.subplots(figsize=(4, 3))
    trial = {
        "image": pictures.embed(Image.new("RGB", (64, 64), "green")),
        "curves": pictures.embed(fig),
        "maps": pictures.embed(maps),
    }
    plt.close(fig)
    trial |= {"concept": "cat", "caption": "A <cat>", "r": 0.4, "r_sample": 0.1}
    score = {"method": "Ours", "mean": 0.3, "low": 0.2, "high": 0.4}
    result = {"ours": score, "other_image": [score], "short": ["Zero"]}
    result |= {"transformer": score, "baseline": None}
    cfg = {"name": "mini", "simulated": True, "label": "Ours", "training_subject": 1}
    table = make_table(tmp_path)
    return page.render(
        "paper.html",
        cfg=SimpleNamespace(**cfg, seeds=[0]),
        paths=paths,
        tables={"tab01_things_eeg2": table, "tab01_things_eeg2_across": table},
        figures={"hero": pictures.embed(Image.new("RGB", (1500, 500), "white"))},
        results={"things-eeg2": result},
        sources=dict.fromkeys(paths.MAIN_TABLES, []),
        gallery=[trial] * 3,
        first="things-eeg2",
        moments=list(range(50, 650, 50)),
        places=np.linspace(10, 60, 12).tolist(),
        limit=2.0,
        unit="noise SD",
        colors={"Occipital": "#d55e00"},
        n_test=60,
        median_r=0.2,
        run=page.read_records([make_record(tmp_path)]),
        effects={},
    )


def test_the_page_needs_no_network(paper):
    assert "Simulated participants." in paper and "A &lt;cat&gt;" in paper
    sources = re.findall(
        r"""(?:src|url\(|@import|<link[^>]*href)=?["'(]?([^"')\s]+)""", paper
    )
    assert sources and all(source.startswith("data:") for source in sources)


def open_in_browser(page, folder):
    """Return what a page has written to its title as JSON."""
    (folder / "checks.html").write_text(page)
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [CHROMIUM, *FLAGS, profile, "--dump-dom", str(folder / "checks.html")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    return json.loads(html.unescape(re.search("<title>(.*)</title>", done.stdout)[1]))


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_maps_of_own_images_move_with_a_slider(tmp_path):
    slider = pictures.slide_maps(Image.new("RGB", (120, 80)), [50, 150, 250])
    checks = """<script>onload = () => {
      const maps = document.querySelector("img");
      const slider = document.querySelector("input");
      const place = () => maps.getBoundingClientRect().left, before = place();
      slider.value = 2;
      slider.dispatchEvent(new Event("input"));
      const moment = document.querySelector("output").textContent;
      document.title = JSON.stringify([before - place(), moment]);
    }</script>"""
    page = f"<!doctype html><title></title>{slider}{checks}"
    assert open_in_browser(page, tmp_path) == [pytest.approx(80), "250 ms"]


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_the_page_works_in_a_browser_as_wide_as_a_phone(paper, tmp_path):
    wrapped = json.dumps(paper).replace("</", "<\\/")
    found = open_in_browser(CHECKS.replace("PAGE", wrapped), tmp_path)
    assert found["loaded"] and found["images"] == 10
    assert found["width"] <= 390  # nothing scrolls sideways but tables in their box
    assert found["moved"] == pytest.approx(5 * found["map"], rel=0.01)
    assert found["moment"] == "400 ms"
    falling = ["1,000.5", "0.109", "0.100 [0.050, 0.200]", "–"]
    assert found["falling"] == falling
    assert found["rising"] == [*falling[2::-1], "–"]
