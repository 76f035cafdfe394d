"""What a user can get wrong: one line that names the fault and what would be right."""

__all__ = ["SegueError", "SegueWarning"]


class SegueError(ValueError):
    """A wrong input, option, file or checkpoint; its message is one line that names it.

    The command line prints the message after ``segue: `` and ends with exit code 2.
    """


class SegueWarning(UserWarning):
    """Something that a user should know and that does not stop the work; one line, like that of an error."""
