from mindpress.errors import InputError


def test_what_a_file_said_is_one_line_without_control_characters():
    error = InputError("model/\x1b[2Jconfig.json:\nfirst\r\nsecond\ttab 😀")
    assert str(error) == "model/ [2Jconfig.json: first  second tab 😀"


def test_a_long_value_keeps_its_beginning_and_its_end():
    error = InputError(f"config.json: `ignore` is {'x' * 10**6}, expected a list")
    assert len(str(error)) < 1100
    assert str(error).startswith("config.json: `ignore`")
    assert str(error).endswith("expected a list")
