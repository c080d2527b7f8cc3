"""Entry point of the command `gridwright`."""

from gridwright_cli.app import app


def main() -> None:
    """Run the command line."""
    app(prog_name="gridwright")


if __name__ == "__main__":
    main()
