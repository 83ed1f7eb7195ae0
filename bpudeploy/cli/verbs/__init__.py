"""One module for each verb: EXAMPLE, ``arguments(parser)`` and ``run(args, out) -> ExitCode``."""
