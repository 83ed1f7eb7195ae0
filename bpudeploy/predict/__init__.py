"""How long a graph is predicted to take on a march: amounts counted from shapes, times rates fitted to published ones.

Nothing in this room is measured, and everything it gives says so.
"""
