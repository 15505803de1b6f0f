from tests.oracle.compare import cases_of

test_same_as_qemu = cases_of("qcow2_given_up")
