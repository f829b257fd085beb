"""Settings for all tests."""

import os
import socket

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests share their processors

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no host name resolve: a test that would fetch something sees what a user without a network sees, everywhere."""

    def unresolved(*_args: object, **_named: object) -> None:
        raise OSError("tests run without a network")

    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
