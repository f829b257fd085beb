"""Choose by measuring: closed-form heads at several depths, short trials of what may be better, and the best of them."""
