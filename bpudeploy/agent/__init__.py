"""The program that runs on a board: sent as one zip file, needs only the standard library, numpy and a runtime."""
