"""Static INT8: observers that stream, and the QDQ form of a restructured graph."""
