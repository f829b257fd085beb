"""The pages of docs/deploy.md: the service answers, and a browser reads digits that are drawn on a canvas."""

from __future__ import annotations

import functools
import io
import json
import re
import shutil
import subprocess
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import regraft

runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
PAGE = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def _block(kind: str, holding: str) -> str:
    return next(block for block in re.findall(rf"```{kind}\n(.+?)```", PAGE, flags=re.DOTALL) if holding in block)


def test_the_service_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    client_of = pytest.importorskip("fastapi.testclient").TestClient
    images = pytest.importorskip("PIL.Image")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2))
    net = regraft.load(module, classes=["cat", "dog"], inputs=(3, 32, 32), preprocessing={"kind": "image", "height": 32, "width": 32})
    net.export(tmp_path / "network.onnx", preprocessing=True)
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    exec(compile(_block("python", "FastAPI"), "service", "exec"), made)
    client, content = client_of(made["service"]), io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    images.fromarray(pixels).save(content, "PNG")
    found = client.post("/predict", content=content.getvalue())
    expected = net.predict(pixels[None]).probabilities[0]
    assert found.status_code == 200
    np.testing.assert_allclose([found.json()[name] for name in ("cat", "dog")], expected, atol=0.01)
    assert client.post("/predict", content=b"no picture").status_code == 422


DRIVER = """
<script>
  (async () => {
    const said = [];
    try {
      for (const digit of classes) {
        clear();
        pen.fillStyle = "white";
        pen.font = "150px 'DejaVu Sans', sans-serif";
        pen.fillText(digit, 50, 150);
        const bytes = square();
        said.push({ digit, bytes: Array.from(bytes), shares: await read(bytes), text: document.getElementById("said").textContent });
      }
    } catch (error) { said.push({ error: String(error) }); }
    await fetch("/said", { method: "POST", body: JSON.stringify(said) });
  })();
</script>
"""


class _Server(SimpleHTTPRequestHandler):
    """Serves a folder, and keeps what the page posts."""

    said: list[Any]
    done: threading.Event

    def do_POST(self) -> None:
        self.said += json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        self.done.set()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.mark.slow
def test_a_browser_reads_digits_that_are_drawn(tmp_path: Path) -> None:
    """Needs Chromium, and npm, which fetches onnxruntime-web (33 MB)."""
    if CHROMIUM is None or shutil.which("npm") is None:
        pytest.skip("Chromium or npm is not installed")
    packed = subprocess.run(["npm", "pack", "onnxruntime-web"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    if packed.returncode:
        pytest.skip(f"npm could not fetch onnxruntime-web: {packed.stderr[-200:]}")
    with tarfile.open(tmp_path / packed.stdout.split()[-1]) as archive:
        for name in ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
            (tmp_path / name).write_bytes(archive.extractfile(f"package/dist/{name}").read())  # type: ignore[union-attr]
    from regraft.cli.demonstration import printed_reader

    plain = {"kind": "image", "height": 8, "width": 8, "channels": 1, "interpolation": "bilinear"}
    reader = printed_reader()
    reader = regraft.load(reader.module, classes=list(reader.classes), inputs=(1, 8, 8), preprocessing=plain)
    reader.export(tmp_path / "digits.onnx", preprocessing=True)
    (tmp_path / "index.html").write_text(_block("html", "canvas") + DRIVER)
    _Server.said, _Server.done = [], threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Server, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", profile, f"http://127.0.0.1:{server.server_port}/"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
            came = _Server.done.wait(120)
            browser.terminate()
        server.shutdown()
    assert came and not any("error" in one for one in _Server.said), _Server.said
    session = runtime.InferenceSession(tmp_path / "digits.onnx")
    right = 0
    for one in _Server.said:
        pixels = np.array(one["bytes"], np.uint8).reshape(1, 32, 32, 1)
        (expected,) = session.run(["probabilities"], {"input": pixels})
        np.testing.assert_allclose(one["shares"], expected[0], atol=1e-4)
        right += one["text"].startswith(one["digit"])
    assert len(_Server.said) == 10 and right >= 8
