from tests.oracle import compare

test_same_as_qemu = compare.cases_of("jobs")
