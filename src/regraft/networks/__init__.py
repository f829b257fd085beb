"""Networks of both families behind one contract."""
