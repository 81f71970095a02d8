import pytest

from mindpress.cli.arguments import normalized, without_traceback

ON, OFF = "--search-scale", "--no-search-scale"


@pytest.mark.parametrize(("given", "expected"), [
    (["--search-scale"], [ON]),
    (["--search-scale", "True"], [ON]),
    (["--search_scale", "true"], [ON]),
    (["--search-scale=1"], [ON]),
    (["--search-scale", "False"], [OFF]),
    (["--search_scale=false"], [OFF]),
    (["--w-sym", "False"], ["--no-w-sym"]),
    (["--kv_sym", "True"], ["--kv-sym"]),
    (["--search-scale", "model"], [ON, "model"]),
    (["--work_dir", "a_b"], ["--work_dir", "a_b"]),
    (["--", "--search-scale", "True"], ["--", "--search-scale", "True"]),
    (["m", "--search-scale", "True", "--w-bits", "4"], ["m", ON, "--w-bits", "4"]),
    ([], []),
])  # fmt: skip
def test_a_switch_may_have_a_value(given, expected):
    assert normalized(given) == expected


def test_the_traceback_flag_is_found_anywhere_but_in_what_follows_two_dashes():
    assert without_traceback(["a", "--traceback", "b"]) == (["a", "b"], True)
    assert without_traceback(["a", "--", "--traceback"]) == (["a", "--", "--traceback"], False)
    assert without_traceback([]) == ([], False)
