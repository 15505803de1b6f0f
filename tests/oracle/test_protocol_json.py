from tests.oracle.compare import cases_of

test_same_as_qemu = cases_of("protocol_json")
