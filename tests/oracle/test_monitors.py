from tests.oracle.compare import tests_of

test_same_as_qemu = tests_of("monitors")
