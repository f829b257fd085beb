"""On the path of Python, it makes every process one without `fcntl`, as on Windows: `make test-without-fcntl`."""

import sys
import warnings

sys.modules["fcntl"] = None  # type: ignore[assignment]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # where filelock finds no lock of the system at all, it says so; Windows has one of its own
    import filelock  # noqa: F401
