"""D-Robotics' toolchain for X3, X5 and Ultra, in an environment of its own under the user's cache."""
