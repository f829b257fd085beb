"""Settings for all tests."""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests share their processors

import torch

torch.set_num_threads(1)
