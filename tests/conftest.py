"""What holds for all tests."""

import signal

from hypothesis import HealthCheck, settings

# How long an example takes says nothing: the machine has other things to do.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# What is started from here shall take SIGINT, which shells let their background jobs ignore.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
