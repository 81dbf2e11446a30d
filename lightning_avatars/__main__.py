"""The way in: ``lightning-avatars``, or ``python -m lightning_avatars``."""


def main() -> None:
    """Run the command line; imported late, for processes that draw pictures import this file and need no torch."""
    from lightning_avatars.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
