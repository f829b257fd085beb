"""Settings for all tests."""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")
