import pytest

from mindpress.errors import InputError
from mindpress.formats.turbomind_dialects import INI_RELEASES, YAML_RELEASES
from mindpress.formats.turbomind_policy import policy_bits, policy_of, with_policy

OLD, NEW, YAML = {4: 8}, {4: 4, 8: 8}, {}


@pytest.mark.parametrize(
    ("release", "meant"),
    [
        ("0.0", OLD), ("0.1", OLD), ("0.2", OLD), ("0.2.6", OLD), ("0.3", OLD), ("0.3.0", OLD),
        ("0.4.0 to 0.4.1", NEW), ("0.4.2", NEW), ("0.5.0 to 0.5.1", NEW), ("0.5.2", NEW),
        ("0.5.3", NEW), ("0.6.0", YAML), ("0.6.0 to 0.6.2", YAML), ("0.6.3 or later", YAML),
        ("0.7 or later", YAML),
    ],
)  # fmt: skip
def test_the_number_four_changed_its_meaning(release, meant):
    assert policy_bits(release) == meant
    assert policy_of(release, 8) == {4: 4, 8: 8}.get(4 if meant is OLD else 8 if meant else 0)
    assert policy_of(release, 4) == (4 if meant is NEW else None)


def test_every_release_that_can_be_read_has_a_meaning():
    for release, _ in INI_RELEASES:
        assert 4 in policy_bits(release)
    for release, _ in YAML_RELEASES:
        assert not policy_bits(release)


@pytest.mark.parametrize("line", [b"quant_policy = 0", b"QUANT_POLICY: 12", b"quant_policy ="])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_only_the_value_of_one_line_is_replaced(line, end):
    rest = [b"[llama]", b"# quant_policy = 7 \xff", b"x_quant_policy = 1"]
    found = with_policy(end.join([*rest, line, b"z = 1", b""]), 8)
    lines = found.split(end)
    assert lines[:3] == rest
    assert lines[3].rstrip().endswith(b"8")
    assert lines[3].lower().startswith(b"quant_policy")
    assert lines[4:] == [b"z = 1", b""]


@pytest.mark.parametrize("text", [b"[llama]\n", b"[llama]\nquant_policy = 0\nquant_policy = 4\n"])
def test_any_other_number_of_lines_is_refused(text):
    with pytest.raises(InputError, match="lines say `quant_policy`, expected one"):
        with_policy(text, 8)
