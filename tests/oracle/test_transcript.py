from tests.oracle.transcript import Transcript


def test_generated_names_are_numbered_as_they_appear():
    transcript = Transcript()
    transcript.add("#block531 #block012 #block531")
    assert transcript.lines(delayed_commands=False) == ["#block<0> #block<1> #block<0>"]


def test_times_versions_and_paths_are_masked():
    transcript = Transcript({"/tmp/abc": "TMP"})
    transcript.add('{"timestamp": {"seconds": 1, "microseconds": 2}, "file": "/tmp/abc/x"}')
    transcript.add('{"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1"}')
    assert transcript.lines(delayed_commands=False) == [
        '{"timestamp": TIME, "file": "TMP/x"}',
        "VERSION",
    ]


def test_events_of_a_delayed_command_follow_its_reply_again():
    transcript = Transcript()
    transcript.add("reply 1", command="query-jobs")
    transcript.add("event 1", is_event=True)
    transcript.add("event 2", is_event=True)
    transcript.add("reply 2", command="block-export-del")
    assert transcript.lines(delayed_commands=True) == ["reply 1", "reply 2", "event 1", "event 2"]
    assert transcript.lines(delayed_commands=False)[-1] == "reply 2"


def test_events_of_other_commands_stay_in_front():
    transcript = Transcript()
    transcript.add("event", is_event=True)
    transcript.add("reply", command="nbd-server-stop")
    assert transcript.lines(delayed_commands=True) == ["event", "reply"]


def test_events_of_one_command_do_not_move_behind_the_next():
    transcript = Transcript()
    transcript.add("event", is_event=True)
    transcript.add("reply 1", command="block-export-del")
    transcript.add("reply 2", command="block-export-del")
    assert transcript.lines(delayed_commands=True) == ["reply 1", "event", "reply 2"]


def test_an_event_read_late_stands_where_it_was_on_the_monitor():
    transcript = Transcript()
    transcript.add("reply", wire=True)
    transcript.add("qemu-io's output")
    transcript.add("event", is_event=True)
    assert transcript.lines(delayed_commands=False) == ["reply", "event", "qemu-io's output"]
