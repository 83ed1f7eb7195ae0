"""D-Robotics' toolchain for X3, X5 and Ultra, in its own environment in the user's cache."""
