"""The report in a real browser: it opens without an error, sorts, fits a phone, and runs no script but its own."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from experiments import report
from tests.reported import evaluation, trace, train, write_run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None or bool(os.environ.get("CI")),
    reason="needs chromium, chromium-browser or google-chrome on the PATH, and does not run in CI (where $CI is set)",
)

LONG = "a_name_without_any_place_to_break_it_" * 4
WIDTHS = (390, 800, 1100, 1280)
# Presses on headers, and what each of them made of the table.
PRESS = """
const heads = [...document.querySelectorAll(".table th")];
const told = ["forgetting", "forgetting", "run", "final"].map((key) => {
  heads.find((head) => head.dataset.key === key).querySelector("button").click();
  return {
    order: [...document.querySelectorAll(".run a")].map((name) => name.textContent),
    sorts: heads.map((head) => head.getAttribute("aria-sort")),
    hash: location.hash,
  };
});
console.error("seen");
document.body.textContent = JSON.stringify(told);
"""
# What frames of some widths hold, with every part of the page open.
MEASURE = """
addEventListener("load", () => {
  const told = [...document.querySelectorAll("iframe")].map((frame) => {
    const page = frame.contentDocument;
    page.querySelectorAll("details").forEach((part) => { part.open = true; });
    return {
      room: frame.contentWindow.innerWidth, needs: page.documentElement.scrollWidth, title: page.title,
      sorts: page.documentElement.className,
    };
  });
  document.body.textContent = JSON.stringify(told);
});
"""


class Opened(NamedTuple):
    """What the browser made of a page, and what it said."""

    dom: str
    said: str

    def told(self):
        """What a script of a test left in the body."""
        return json.loads(html.unescape(re.search("<body[^>]*>(.*?)</body>", self.dom, re.DOTALL)[1]))


def browse(page: Path, fragment: str = "") -> Opened:
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom",
        "--virtual-time-budget=5000", "--hide-scrollbars", f"--user-data-dir={page.parent / 'profile'}",
        page.as_uri() + fragment,
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return Opened(ended.stdout, ended.stderr)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Four runs: forgetting 0.3, 0.1, 0.5, and none yet; in the order of their ranks."""
    folder = tmp_path_factory.mktemp("browser")
    for name, first, final in (("run2", 0.9, 0.6), ("run10", 0.5, 0.4), (LONG, 0.8, 0.3)):
        lines = [
            train(1, [2.0]), trace(1, 0, [[0.9, 0.0]]), evaluation(1, 0),
            train(2, [1.0], 1), trace(2, 1, [[0.5, 0.5]]), evaluation(2, 1),
        ]  # fmt: skip
        write_run(
            folder / "runs" / name[:20], lines, name=name, method=name, seeds=[0], baseline=None,
            matrices=[[[first, 0.0], [final, final]]], config={LONG: LONG, "name": name}, command=LONG,
        )  # fmt: skip
    started = [[[0.9, 0.0], None]]
    write_run(folder / "runs" / "open", name="open", matrices=started, seeds=[0], baseline=None, stream=LONG)
    return report.write_report([folder / "runs"], folder / "report.html")


def order(dom):
    return re.findall(r'<a href="#run-\d+">(.*?)</a>', dom)


def test_it_opens_without_an_error_in_the_order_of_the_address(page):
    assert order(page.read_text()) == ["run2", "run10", LONG, "open"]
    opened = browse(page, "#sort=forgetting")
    assert "CONSOLE" not in opened.said
    assert order(opened.dom) == ["run10", "run2", LONG, "open"]
    assert re.findall('data-key="([^"]*)" [^>]*aria-sort="([^"]*)"', opened.dom) == [("forgetting", "ascending")]
    opened = browse(page, "#sort=-forgetting")
    assert order(opened.dom) == [LONG, "run2", "run10", "open"]


def test_a_press_on_a_header_sorts_and_a_second_one_turns_it_round(page):
    copy = page.with_name("pressed.html")
    text, num = re.subn('<meta http-equiv="Content-Security-Policy".*?>', "", page.read_text())
    copy.write_text(text.replace("</body>", f"<script>{PRESS}</script></body>"))
    opened = browse(copy)
    assert num == 1 and "CONSOLE" in opened.said and "seen" in opened.said and opened.said.count("CONSOLE") == 1
    told = opened.told()
    assert [press["order"] for press in told] == [
        ["run10", "run2", LONG, "open"],
        [LONG, "run2", "run10", "open"],
        [LONG, "open", "run2", "run10"],
        ["run2", "run10", LONG, "open"],
    ]
    assert [press["hash"] for press in told] == ["#sort=forgetting", "#sort=-forgetting", "#sort=run", "#sort=final"]
    columns = [(4, "ascending"), (4, "descending"), (0, "ascending"), (2, "descending")]
    assert [press["sorts"] for press in told] == [
        [word if k == column else None for k in range(9)] for column, word in columns
    ]


def test_it_fits_a_phone_and_a_desk_and_runs_no_other_script(page):
    text = page.read_text()
    foreign = text.replace("</body>", "<script>document.title = 'changed'</script></body>")
    frames = "".join(
        f'<iframe style="width:{width}px;height:900px" frameborder="0" srcdoc="{html.escape(content)}"></iframe>'
        for width, content in zip(WIDTHS, (text, text, text, foreign), strict=True)
    )
    outer = page.with_name("frames.html")
    outer.write_text(f"<!DOCTYPE html><body>{frames}<script>{MEASURE}</script></body>")
    for frame, width in zip(browse(outer).told(), WIDTHS, strict=True):
        assert frame == {"room": width, "needs": width, "title": "Continual learning report", "sorts": "sorts"}
