"""What ends a run before or between scans."""


class Refused(Exception):
    """The run cannot go on as it was asked for; its text is one line that says why."""
