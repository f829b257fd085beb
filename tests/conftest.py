"""Settings for all tests."""

import functools
import gc
import importlib
import inspect
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests share their processors

import pytest
import torch

torch.set_num_threads(1)
gc.disable()  # until the tests are collected: each full collection reads all that the libraries hold


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name cases of bytes by their argument: bytes such as gzip's hold the time, and each process that runs tests collects its own."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what the libraries and the tests themselves hold: each full collection read all of it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)  # in place of 700: a network is made of thousands of objects
    gc.enable()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no host name resolve: a test that would fetch something sees what a user without a network sees, everywhere.

    Addresses of this machine do: a local server that is started within a test would wait for itself forever.
    """
    resolved = socket.getaddrinfo

    def local(host: Any, *rest: Any, **named: Any) -> Any:
        if host in ("127.0.0.1", "::1"):
            return resolved(host, *rest, **named)
        raise OSError("tests run without a network")

    monkeypatch.setattr(socket, "getaddrinfo", local)


@pytest.fixture(autouse=True, scope="session")
def temporary_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let temporary folders lie below pytest's own, which it clears: a process that a test kills leaves what it has made."""
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("t"))
    yield
    tempfile.tempdir = before


@pytest.fixture(autouse=True, scope="session")
def operators_looked_up_once() -> Iterator[None]:
    """Let the exporter to ONNX list and translate its operators once a process, not for each network: most of what a small export takes."""
    export, translated = torch.onnx.export, list[Any]()

    def quick(*args: Any, **named: Any) -> Any:
        if not translated:
            kind = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
            translated.append(functools.cache(kind.from_torchlib))
            kind.from_torchlib = staticmethod(translated[0])
            parts, operators = map(importlib.import_module, ("torch.onnx._internal.exporter._decomp", "torch._export.utils"))
            table = functools.cache(parts.create_onnx_friendly_decomposition_table)
            parts.create_onnx_friendly_decomposition_table = lambda known: dict(table(frozenset(known)))
            operators._materialize_cpp_cia_ops = functools.cache(operators._materialize_cpp_cia_ops)
        return export(*args, **named)

    torch.onnx.export = quick
    yield
    torch.onnx.export = export


@pytest.fixture(autouse=True, scope="session")
def callers_without_their_source() -> Iterator[None]:
    """Let `inspect.stack`, which the imports of librosa call, give the frames alone: it goes through all modules for the source of each."""

    def stack(*_given: Any, **_named: Any) -> list[inspect.FrameInfo]:
        frame, found = sys._getframe(1), list[inspect.FrameInfo]()
        while frame is not None:
            found.append(inspect.FrameInfo(frame, frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name, None, None))
            frame = frame.f_back
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "stack", stack)
        yield


@pytest.fixture(autouse=True)
def _short_trainings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trainings end early whose number of epochs is not given, such as the yardstick from scratch; not in the tests of their length."""
    if "training" not in request.path.parts:
        monkeypatch.setattr("regraft.training.courses.MOST", 40)


@pytest.fixture
def without_onnx_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save networks of PyTorch without their ONNX form, most of what saving takes: for tests that open them with their class."""
    monkeypatch.setattr("regraft.networks.torch.family.write_program", lambda *_given, **_named: {})
