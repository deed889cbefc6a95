"""Who moves a pointer by hand, for the audit trail."""

import getpass
import os


def actor() -> str:
    """The user's name; `uid N` where no name is known of it, as in a container without a passwd entry."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the one up to Python 3.12, the other from 3.13 on
        return f"uid {os.getuid()}"
