from pathlib import Path

from mindpress.cli.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def test_the_page_is_that_of_the_command_tree():
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "run `python -m mindpress.cli.reference > docs/cli.md`"
    )


def test_every_option_of_the_help_is_on_the_page(run):
    text = reference()
    commands = [line.removeprefix("## mindpress ") for line in text.splitlines()
                if line.startswith("## mindpress ")]  # fmt: skip
    assert len(commands) >= 7
    for command in commands:
        section = text.split(f"## mindpress {command}\n")[1].split("\n## ")[0]
        shown = run(*command.split(), "--help").out
        options = {word.strip(",") for word in shown.split() if word.startswith("--")}
        for option in options - {"--help", "--prompt", "--no-w-sym", "--no-search-scale"}:
            assert option in section, f"{command}: {option}"


def test_every_exit_code_is_on_the_page():
    rows = reference().split("## Exit codes")[1].splitlines()
    codes = [row.split("|")[1].strip() for row in rows if row.startswith("|")]
    assert codes[2:] == ["0", "1", "2", "3", "4", "5", "6", "7", "130", "143"]
