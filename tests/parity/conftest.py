"""The table of the largest differences: `pytest tests/parity --parity-table`."""

import pytest

from tests.parity.differences import markdown_table


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--parity-table", action="store_true", help="print the largest difference from each reference")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--parity-table", default=False):
        terminalreporter.section("largest differences")
        terminalreporter.write_line(markdown_table())
