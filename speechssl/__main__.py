"""The command line: `speechssl <stage> RECIPE.yaml [key=value ...]` for stages, ordinary arguments for tools.

Stages are configured by their recipe only, so there is no second set of flags to keep in step. Errors that the user can
fix are printed in one line, with exit status 2.
"""

import sys
from collections.abc import Sequence

from speechssl.errors import SpeechSSLError, StoppedError

__all__ = ["main"]

INTERRUPTED = 130  # 128 + the number of SIGINT, as in shells


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _main(words)
    except KeyboardInterrupt:  # also while modules are imported, which takes seconds
        print("speechssl: interrupted", file=sys.stderr)
        return INTERRUPTED


def _main(words: list[str]) -> int:
    from speechssl.cli.commands import COMMANDS
    from speechssl.cli.lazy import app_of, command_and_extras
    from speechssl.extras import missing_extra
    from speechssl.memory import keep_freed_memory

    keep_freed_memory()
    try:
        app_of(COMMANDS, "speechssl")(args=words, prog_name="speechssl")
    except StoppedError as stop:
        print(f"speechssl: {stop}", file=sys.stderr)
    except (SpeechSSLError, OSError) as error:  # the user can fix it: one line, no traceback
        print(f"speechssl: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        cure = missing_extra(error, *command_and_extras(COMMANDS, words))
        if cure is None:
            raise
        print(f"speechssl: {cure}", file=sys.stderr)
        return 2
    except SystemExit as end:  # typer exits this way, also after an interrupt
        if end.code == INTERRUPTED:
            raise KeyboardInterrupt from None
        return int(end.code or 0)
    return 0


def console() -> None:
    """Entry point of the `speechssl` script."""
    sys.exit(main())


if __name__ == "__main__":
    console()
