"""The page of pictures."""

import base64
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.inference.networks import picture
from vision_mtl.inference import gallery
from vision_mtl.inference.gallery import write_gallery

NASTY = "</script><img src=x onerror=alert(1)>\"'&{{ 7*7 }}"


def entry(file: Path, category: str = "nut", label: Any = "clean") -> dict[str, Any]:
    found = {"bbox": [1.0, 2.0, 30.0, 20.0], "category_id": 7, "category": category, "score": 0.5}
    labels = {"kind": {"label": label, "score": 0.5, "scores": {}}, "count": {"value": 2.0}}
    return {"file": str(file), "width": 80, "height": 48, "detections": [found], "labels": labels}


def cards(page: str) -> list[list[list[str]]]:
    """Return each card's tags."""
    return [json.loads(html.unescape(tags)) for tags in re.findall(r'data-tags="([^"]*)"', page)]


def pictures(page: str) -> list[np.ndarray]:
    sources = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), 1) for text in sources]


def test_names_stay_text(tmp_path: Path) -> None:
    file = picture(tmp_path / "<b>x&amp;.png", 48, 80)
    write_gallery(tmp_path / "g.html", [entry(file, NASTY, NASTY)], 1, {7: 0}, 10**6, NASTY)
    page = (tmp_path / "g.html").read_text()
    assert page.count("<script>") == page.count("</script>") == 1
    assert "<img src=x" not in page
    assert "<b>x" not in page
    assert cards(page) == [[["found", NASTY], ["kind", NASTY]]]
    assert f"<title>{html.escape(NASTY, quote=False)}".split("&#")[0][:40] in page
    assert "http" not in page.replace("http-equiv", "")  # loads nothing


def test_at_most_so_many_images_evenly_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "MOST_IMAGES", 5)
    files = [picture(tmp_path / f"{number}.png", 48, 80) for number in range(17)]
    shown = write_gallery(tmp_path / "g.html", map(entry, files), 17, {7: 0}, 10**6, "title")
    page = (tmp_path / "g.html").read_text()
    assert shown == len(cards(page)) == 5
    names = [Path(name).stem for name in re.findall(r'data-file="([^"]*)"', page)]
    assert names == ["0", "4", "8", "12", "16"]
    assert "const total = 17;" in page


def test_the_page_keeps_to_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "MOST_BYTES", 2**20 + 60_000)
    files = [picture(tmp_path / f"{number}.png", 900, 1200, seed=number) for number in range(4)]  # noise
    entries = [{**entry(file), "width": 1200, "height": 900} for file in files]
    assert write_gallery(tmp_path / "g.html", entries, 4, {7: 0}, 10**7, "title") == 4
    page = (tmp_path / "g.html").read_text()
    assert sum(len(text) for text in re.findall(r"base64,([^\"]+)", page)) <= 60_000
    assert all(drawn.shape[1] > 100 for drawn in pictures(page))


def test_boxes_lie_where_they_are_in_the_image(tmp_path: Path) -> None:
    file = tmp_path / "white.png"
    assert cv2.imwrite(str(file), np.full((960, 1280, 3), 255, np.uint8))
    found = {"bbox": [640.0, 480.0, 320.0, 240.0], "category_id": 7, "category": " ", "score": 0.5}
    big = {"file": str(file), "width": 1280, "height": 960, "detections": [found], "labels": {}}
    write_gallery(tmp_path / "g.html", [big], 1, {7: 1}, 10**7, "title")
    (drawn,) = pictures((tmp_path / "g.html").read_text())
    assert drawn.shape == (480, 640, 3)
    assert drawn[300, 320, 2] < 120  # left edge, in the blue of class 1
    assert drawn[300, 479, 2] < 120
    assert drawn[300, 300].min() > 230
    assert drawn[300, 400].min() > 230


def test_no_image_is_a_page_too(tmp_path: Path) -> None:
    assert write_gallery(tmp_path / "g.html", [], 0, {}, 10**6, "title") == 0
    assert cards((tmp_path / "g.html").read_text()) == []


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVE = """<script>
const seen = [document.getElementById("count").textContent];
selects[0].value = "nut";
selects[0].dispatchEvent(new Event("change"));
seen.push(document.getElementById("count").textContent);
shown[1].querySelector("button").click();
seen.push(dialog.open, dialog.querySelector("img").alt);
document.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight"}));
seen.push(dialog.querySelector("img").alt);
search.value = "2.png";
search.dispatchEvent(new Event("input"));
seen.push(document.getElementById("count").textContent);
document.title = JSON.stringify(seen);
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_filters_and_enlargement_in_a_browser(tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{number}.png", 48, 80) for number in range(3)]
    entries = [entry(file, name) for file, name in zip(files, ("nut", NASTY, "nut"), strict=True)]
    write_gallery(tmp_path / "g.html", entries, 3, {7: 0}, 10**6, "title")
    page = (tmp_path / "g.html").read_text()
    (tmp_path / "driven.html").write_text(page.replace("</body>", DRIVE))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    place = [f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "driven.html").as_uri()]
    done = subprocess.run([str(BROWSER), *options, *place], capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None, done.stderr
    first, third = str(files[0]), str(files[2])
    expected = ["3 of 3 images", "2 of 3 images", True, third, first, "1 of 3 images"]
    assert json.loads(html.unescape(title[1])) == expected
    assert "CONSOLE" not in done.stderr
