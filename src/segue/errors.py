"""What a user can get wrong: one line that names the fault and what would be right."""

__all__ = ["SegueError"]


class SegueError(ValueError):
    """A wrong input, option, file or checkpoint; its message is one line that names it.

    The command line prints the message after ``segue: `` and ends with exit code 2.
    """
