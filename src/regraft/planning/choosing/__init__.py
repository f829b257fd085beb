"""Choice by measuring: closed-form heads at several depths, short trials of further candidates, and the best of them."""
