"""The same job in other frameworks, each in an environment of its own without this project's packages."""
