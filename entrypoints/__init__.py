"""How a process starts: settings, wiring, the command line. Nothing imports this package."""
